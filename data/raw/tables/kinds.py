"""The formats of tables, by suffix."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from core.errors import UserError
from data.media.unread_kinds import MARKED, mistaken_for
from data.raw.annotations.text_encoding import Encoding
from data.raw.opening import open_within
from data.raw.tables import delimited, json_rows, line_pairs, parquet_rows
from data.raw.tables.rows import Table


def _read_text(path: Path, encoding: Encoding, within: str) -> Table | None:
    """Open a list that belongs to another line by line, or a table whose first line says that it is one."""
    return line_pairs.read(path, encoding, within) or delimited.read_called_text(path, encoding, within)


# Each opens a table; None where the file is none, though its name allows it.
READERS: Mapping[str, Callable[[Path, Encoding, str], Table | None]] = {
    ".csv": delimited.read,
    ".tsv": delimited.read,
    ".tab": delimited.read,
    ".jsonl": json_rows.read_lines,
    ".ndjson": json_rows.read_lines,
    ".json": json_rows.read_whole,
    ".parquet": parquet_rows.read,
    ".txt": _read_text,
}
GIVEN = tuple(suffix for suffix in READERS if suffix != ".txt")  # suffixes of a source that is a table


def open_table(path: Path, encoding: Encoding, within: str) -> Table | None:
    """Open the table in a file, None if it holds none.

    UserError if it cannot be read as what its suffix says.

    within: the folder out of which no link may lead, "" for anywhere.
    """
    reader = READERS.get(path.suffix.lower())
    if path.suffix.lower() in GIVEN:
        with open_within(path, within) as file:
            if mistaken := mistaken_for(file.read(MARKED)):
                raise UserError(f"{path}: no table but {mistaken}")
    return reader(path, encoding, within) if reader else None
