"""The samples of a large source in little memory: rows in compressed blocks, made into items when asked for.

An `Item` takes about 700 bytes as a Python object, which for a table of a hundred million rows is more than a
machine has. Names, paths and captions of neighbouring rows resemble each other, so 128 of them together are
compressed to a few ten bytes a row; only sizes, which are needed to cut shards, stay outside.
"""

from __future__ import annotations

import marshal
import zlib
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np

from data.raw.item import Item

BLOCK = 128  # rows compressed together
Labels = Callable[[int, str], tuple[int, str]]


class ItemStore(Sequence[Item]):
    """A list of items that cannot be changed. `relabel` says once which label and class each row gets."""

    def __init__(self, items: Iterable[Item] = ()) -> None:
        self.sizes = array("Q")
        self._blocks: list[bytes] = []
        self._labels: Labels = lambda label, name: (label, name)
        self._open: tuple[int, list[Any]] = (-1, [])  # the block that was asked for last
        waiting: list[Any] = []
        for item in items:
            self.sizes.append(item.packed)
            waiting.append(_row(item))
            if len(waiting) == BLOCK:
                self._blocks.append(_packed(waiting))
                waiting = []
        if waiting:
            self._blocks.append(_packed(waiting))

    def relabel(self, labels: Labels) -> None:
        """Give items, from now on, the label and class that `labels` makes of their own."""
        self._labels = labels

    def __len__(self) -> int:
        return len(self.sizes)

    @overload
    def __getitem__(self, at: int) -> Item: ...
    @overload
    def __getitem__(self, at: slice) -> Selection: ...
    def __getitem__(self, at: int | slice) -> Item | Selection:
        if isinstance(at, slice):
            return Selection(self, range(len(self))[at])
        number, place = divmod(range(len(self))[at], BLOCK)
        block, rows = self._open
        if block != number:
            rows = marshal.loads(zlib.decompress(self._blocks[number]))
            self._open = (number, rows)
        return self._item(rows[place])

    def __iter__(self) -> Iterator[Item]:
        for block in self._blocks:
            yield from map(self._item, marshal.loads(zlib.decompress(block)))

    def _item(self, row: Any) -> Item:
        name, path, offset, size, label, class_name, text, refused, column, more, within = row
        label, class_name = self._labels(label, class_name)
        return Item(
            name, Path(path), offset, size, label, class_name, text, refused, None, column, more, within
        )


class Selection(Sequence[Item]):
    """Some of the items of a store, in an order of their own; only these are pickled to another process."""

    def __init__(self, items: Sequence[Item], places: Sequence[int] | np.ndarray) -> None:
        self._items, self._places = items, places

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, at: int) -> Item: ...
    @overload
    def __getitem__(self, at: slice) -> Selection: ...
    def __getitem__(self, at: int | slice) -> Item | Selection:
        if isinstance(at, slice):
            return Selection(self._items, self._places[at])
        return self._items[self._places[at]]

    def __reduce__(self) -> tuple[Any, ...]:
        return Selection, (tuple(self), range(len(self)))

    def sizes(self) -> Iterator[int]:
        """Return the bytes of each item."""
        if isinstance(self._items, ItemStore):
            return map(self._items.sizes.__getitem__, self._places)
        return (item.packed for item in self)


def sizes_of(items: Sequence[Item]) -> Iterable[int]:
    """Return the bytes of each item as packed, without making items where that can be avoided."""
    if isinstance(items, ItemStore):
        return items.sizes
    return items.sizes() if isinstance(items, Selection) else [item.packed for item in items]


def _row(item: Item) -> tuple[Any, ...]:
    return (
        *(item.name, str(item.path), item.offset, item.size, item.label, item.class_name, item.text),
        *(item.refused, item.column, dict(item.more), item.within),
    )


def _packed(rows: list[Any]) -> bytes:
    return zlib.compress(marshal.dumps(rows), 6)
