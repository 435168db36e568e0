"""Columns of numbers of a record, without parsing whole rows: a million rows in about two seconds.

Rows of one writer have the same keys in the same order, so the quotes of a row tell where its values stand.
Rows are grouped by how many quotes they have, a group's layout is read from its first row, and each further
row has to show the same keys at the same quotes. Whatever does not fit, a line of another form or a damaged
one, is parsed as `core.records.iterate` parses it, and what that leaves out is left out here. Damage within a
line but outside of its columns is not noticed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from core.files import open_regular
from core.reading.decimals import LONGEST, Floats, Longs, numbers, words_of
from core.records import ATTEMPT, Row, decode, number
from core.records import LONGEST as LONGEST_LINE

CHUNK = 1 << 22  # bytes read at a time
QUOTE, LINE_FEED = 34, 10


@dataclass(frozen=True)
class Columns:
    """The values of some columns of a record.

    values: by name, NaN where a row has no finite number.  starts: where each row's line begins.
    attempts: (row, name) of the first row of each attempt, in order; an early version noted none.
    broken, foreign: lines that are no rows, and rows of attempts that had lost the run; both are left out.
    """

    values: dict[str, Floats]
    starts: Longs
    attempts: list[tuple[int, str]]
    broken: int
    foreign: int

    def __len__(self) -> int:
        return len(self.starts)


class _Part(NamedTuple):
    values: Floats  # (names, rows)
    starts: Longs
    attempts: list[tuple[int, str]]
    broken: int


class _Layout(NamedTuple):
    """keys: number of the quote that begins each name's key, -1 of a name that rows do not have."""

    keys: list[int]
    attempt: int
    name: str


def read_columns(path: Path, names: Sequence[str]) -> Columns:
    """Read the numbers of all rows of a record under these names; an absent file has none.

    A last line that is still being written, or was cut off, is left out.
    """
    parts = []
    if path.exists():
        with open_regular(path) as file:
            parts = [_read(*chunk, names) for chunk in _chunks(file)]
    return _joined(parts, names)


def rows_at(path: Path, starts: Iterable[int]) -> list[Row]:
    """Return the whole rows whose lines begin at these places."""
    rows = []
    with open_regular(path) as file:
        for start in starts:
            file.seek(start)
            if (row := decode(file.readline(LONGEST_LINE))) is not None:
                rows.append(row)
    return rows


def _chunks(file: IO[bytes]) -> Iterator[tuple[int, bytearray, int]]:
    """Yield (place in the file, buffer, size of the whole lines at its start); the buffer is used again.

    After the lines it has more bytes, so that readers may look beyond them.
    """
    buffer = bytearray(LONGEST_LINE + CHUNK + LONGEST)
    place = held = 0
    while got := file.readinto(memoryview(buffer)[held : held + CHUNK]):  # type: ignore[attr-defined]
        held += got
        size = buffer.rfind(b"\n", 0, held) + 1
        if size:
            yield place, buffer, size
            place += size
            buffer[: held - size] = buffer[size:held]
            held -= size
        elif held >= LONGEST_LINE:  # of a line so long its end alone is kept, which is no JSON object
            place += held - 1
            held = 1


def _read(place: int, data: bytearray, size: int, names: Sequence[str]) -> _Part:
    characters = np.frombuffer(data, np.uint8)
    quotes = np.append(np.flatnonzero(characters[:size] == QUOTE), size)
    stops = np.flatnonzero(characters[:size] == LINE_FEED)
    starts = np.concatenate(([0], stops[:-1] + 1))
    last = np.searchsorted(quotes[:-1], stops)
    first = np.concatenate(([0], last[:-1]))
    values = np.full((len(names), len(stops)), np.nan)
    attempts, known = np.zeros(len(stops), np.int64), {"": 0}
    is_odd = np.ones(len(stops), np.bool_)
    counts = last - first
    for count in np.unique(counts):
        rows = np.flatnonzero(counts == count)
        line = bytes(data[starts[rows[0]] : stops[rows[0]]])
        if (layout := _layout(line, names)) is not None:
            places = first[rows], starts[rows], stops[rows]
            group = _Group(data, characters, words_of(data), quotes, *places)
            values[:, rows], fits = group.read(names, layout)
            attempts[rows], is_odd[rows] = known.setdefault(layout.name, len(known)), ~fits
    is_row = np.ones(len(stops), np.bool_)
    for row in np.flatnonzero(is_odd):
        length = stops[row] - starts[row]
        found = decode(bytes(data[starts[row] : stops[row]])) if length < LONGEST_LINE else None
        is_row[row] = found is not None
        if found is not None:
            values[:, row] = [_nan_for_none(number(found, name)) for name in names]
            attempts[row] = known.setdefault(str(found.get(ATTEMPT, "")), len(known))
    codes, named = attempts[is_row], list(known)
    changes = np.flatnonzero(np.diff(codes, prepend=-1))
    begins = [(int(row), named[codes[row]]) for row in changes]
    return _Part(values[:, is_row], place + starts[is_row], begins, int((~is_row).sum()))


def _nan_for_none(value: float | None) -> float:
    return np.nan if value is None else value


def _layout(line: bytes, names: Sequence[str]) -> _Layout | None:
    """Return where a row has its keys; None where that cannot be told by its quotes."""
    row = decode(line)
    if row is None or b"\\" in line:
        return None
    pieces = line.split(b'"')
    depths = np.cumsum([piece.count(b"{") - piece.count(b"}") for piece in pieces[::2]])
    top = {pieces[2 * k + 1]: 2 * k for k in range(len(pieces) // 2) if depths[k] == 1}
    keys = [top.get(name.encode(), -1) if name in row else -1 for name in names]
    if any(name in row and key < 0 for name, key in zip(names, keys, strict=True)):
        return None
    attempt = row.get(ATTEMPT, "")
    if not isinstance(attempt, str) or (ATTEMPT in row and ATTEMPT.encode() not in top):
        return None
    return _Layout(keys, top.get(ATTEMPT.encode(), -1), attempt)


@dataclass(frozen=True)
class _Group:
    """Rows with as many quotes each.

    words: at every place the eight bytes from there on.
    first: of each row's quotes, the number of its first.
    """

    data: bytearray
    characters: NDArray[np.uint8]
    words: NDArray[np.uint64]
    quotes: Longs
    first: Longs
    starts: Longs
    stops: Longs

    def read(self, names: Sequence[str], layout: _Layout) -> tuple[Floats, NDArray[np.bool_]]:
        """Return the values (names, rows), and which rows have this layout and its attempt."""
        values = np.full((len(names), len(self.first)), np.nan)
        fits = self._begins(b"{", self.starts) & self._begins(b"}", self.stops - 1)
        for place, (name, key) in enumerate(zip(names, layout.keys, strict=True)):
            if key < 0:
                continue
            begins = self.quotes[self.first + key]
            fits &= self._begins(f'"{name}": '.encode(), begins)
            following = self.quotes[self.first + key + 2] - 2
            values[place], is_bad = numbers(
                self.data, begins + len(name) + 4, np.minimum(following, self.stops - 1)
            )
            fits &= ~is_bad
        if "step" in names and layout.keys[names.index("step")] >= 0:
            step = values[names.index("step")]
            fits &= (step >= 0) & (step == np.floor(step)) & (step < 2**53)
        if layout.attempt >= 0:
            text = f'"{ATTEMPT}": "{layout.name}"'.encode()
            fits &= self._begins(text, self.quotes[self.first + layout.attempt])
        return values, fits

    def _begins(self, text: bytes, places: Longs) -> NDArray[np.bool_]:
        """Return at which places this text begins, comparing eight bytes at a time."""
        if len(text) < 8:
            return np.all([self.characters[places + k] == each for k, each in enumerate(text)], 0)
        result = np.ones(len(places), np.bool_)
        for offset in (*range(0, len(text) - 8, 8), len(text) - 8):
            expected = np.uint64(int.from_bytes(text[offset : offset + 8], "little"))
            result &= self.words[places + offset] == expected
        return result


def _joined(parts: Sequence[_Part], names: Sequence[str]) -> Columns:
    """Put parts together, leaving out rows of attempts that had lost the run."""
    values = np.concatenate([part.values for part in parts] or [np.empty((len(names), 0))], 1)
    starts = np.concatenate([part.starts for part in parts] or [np.empty(0, np.int64)])
    rows = 0
    stretches: list[tuple[int, str]] = []
    for part in parts:
        stretches += [(rows + row, name) for row, name in part.attempts]
        rows += len(part.starts)
    is_kept = np.ones(rows, np.bool_)
    now, before, begins = "", set[str](), list[tuple[int, str]]()
    for (row, name), (stop, _) in zip(stretches, [*stretches, (rows, "")][1:], strict=True):
        if name != now and name in before:
            is_kept[row:stop] = False
        elif name != now or not begins:
            before.add(now)
            now = name
            begins.append((row, name))
    if not is_kept.all():
        values, starts = values[:, is_kept], starts[is_kept]
    kept_before = np.concatenate(([0], np.cumsum(is_kept)))
    return Columns(
        dict(zip(names, values, strict=True)),
        starts,
        [(int(kept_before[row]), name) for row, name in begins],
        sum(part.broken for part in parts),
        int((~is_kept).sum()),
    )
