"""The result of every reader of a table: its columns, and rows of named fields."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

UNDECODED = "surrogateescape"  # keeps bytes that are not UTF-8, so that only their own row is refused
HEAD = 100  # rows that are looked at for what a column holds


class Row(NamedTuple):
    """One row. number: counted from 1, without the header.  problem: why its fields cannot be read.

    line: of the file, where it ends; 0 where the file has no lines.
    """

    number: int
    fields: Mapping[str, Any]
    problem: str = ""
    line: int = 0


class Embedded(NamedTuple):
    """A picture that lies in the table itself: its column, its length in bytes, the name it is given."""

    column: str
    size: int
    name: str


@dataclass(frozen=True)
class Table:
    """An open table. rows: reads it from the start, with at least the columns asked for.

    columns: of the first rows where each row has its own.  head: the first rows, to look at.
    how: what was found out about its form, "" if that is the usual one.
    names: of the numbers in a column of classes, by column.  also: other files of which it is made.
    has_encoding: whether the setting `encoding` says how its text is read.
    pictures: columns that hold pictures.
    headless: a name of a file in its first line, which is no header then; "" if there is none.
    """

    path: Path
    columns: tuple[str, ...]
    rows: Callable[[tuple[str, ...]], Iterator[Row]]
    head: tuple[Mapping[str, Any], ...] = ()
    how: str = ""
    names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    also: tuple[str, ...] = ()
    has_encoding: bool = True
    pictures: tuple[str, ...] = ()
    headless: str = ""
