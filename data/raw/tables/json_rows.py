"""JSON lines, and JSON files that hold a list of objects or name media as their keys."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from core.errors import UserError
from data.media.formats import MEDIA_SUFFIXES
from data.raw.annotations.captions import without_repetition
from data.raw.annotations.text_encoding import LOOKED_AT, Encoding, encoding_of, readings
from data.raw.opening import lines_of, open_within, opener_within, read_within
from data.raw.tables.json_joined import rows_in
from data.raw.tables.rows import HEAD, UNDECODED, Row, Table

KOHYA = {"caption", "tags"}  # fields of a picture in the metadata that kohya's scripts write


def read_lines(path: Path, encoding: Encoding, within: str) -> Table:
    """Open JSON lines. A line that is no object is refused alone; UserError if none of the first is one."""
    with open_within(path, within) as file:
        name = encoding_of(file.read(LOOKED_AT), encoding)

    def rows(wanted: tuple[str, ...] = ()) -> Iterator[Row]:
        try:
            with open(path, encoding=name, errors=UNDECODED, opener=opener_within(within)) as file:
                lines = ((n, line) for n, line in enumerate(lines_of(file, path), 1) if line.strip())
                yield from (_row(number, line, place) for number, (place, line) in enumerate(lines, 1))
        except UnicodeError as error:
            raise UserError(f"{path}: not text in {name}: {error}") from None

    how = "" if name in ("utf-8", "utf-8-sig") else f"text in {name}"
    table = _table(path, rows, how)
    if not table.columns and (first := next(rows(), None)) and first.problem:
        raise UserError(
            f"{path}: line {first.line}: {first.problem}; each line of JSON lines is an object of its own "
            "(a list of objects is called .json)"
        )
    return table


def read_whole(path: Path, encoding: Encoding, within: str) -> Table | None:
    """Open a JSON file: a list of objects, or an object whose keys are media files; None for other JSON."""
    data = read_within(path, within)
    name = encoding_of(data, encoding)
    try:
        content = json.loads(data.decode(name), object_pairs_hook=without_repetition)
    except UnicodeDecodeError as error:
        hint = f"; {readings(data)}" if name == "utf-8" else ""
        raise UserError(f"{path}: not text in {name} (byte {error.start}){hint}") from None
    except (ValueError, RecursionError) as error:
        hint = "; objects line by line are called .jsonl" if "Extra data" in str(error) else ""
        raise UserError(f"{path}: not readable JSON in {name}: {error}{hint}") from None
    del data
    if isinstance(content, dict):
        content = _by_file(content) or rows_in(content)
    if not isinstance(content, list) or not any(isinstance(row, dict) for row in content):
        return None
    listed: list[Any] = content

    def rows(wanted: tuple[str, ...] = ()) -> Iterator[Row]:
        for number, row in enumerate(listed, 1):
            good = isinstance(row, dict)
            yield Row(number, row if good else {}, "" if good else "bad row: not a JSON object")

    return _table(path, rows, "" if name in ("utf-8", "utf-8-sig") else f"text in {name}")


def _table(path: Path, rows: Any, how: str) -> Table:
    first: Iterable[Row] = itertools.islice(rows(), HEAD)
    head = tuple(row.fields for row in first if not row.problem)
    columns = tuple(dict.fromkeys(name for fields in head for name in fields))
    return Table(path, columns, rows, head, how)


def _row(number: int, line: str, place: int) -> Row:
    try:
        fields = json.loads(line, object_pairs_hook=without_repetition)
        if not isinstance(fields, dict):
            raise ValueError("not a JSON object")
    except (ValueError, RecursionError) as error:
        return Row(number, {}, f"bad row: {error}", place)
    return Row(number, fields, line=place)


def _by_file(content: dict[str, Any]) -> list[dict[str, Any]] | None:
    """Return rows of an object {file: caption} or {file: {fields}}; None if its keys are no media files.

    kohya writes names without suffix; there the fields tell. StyleGAN and EDM write
    {"labels": [[file, number], ...]}.
    """
    if list(content) == ["labels"] and _are_pairs(content["labels"]):
        return [{"path": name, "label": label} for name, label in content["labels"]]
    by_stem = all(isinstance(value, dict) and KOHYA & value.keys() for value in content.values())
    by_name = all(
        name.lower().endswith(MEDIA_SUFFIXES) and isinstance(value, str | list | dict)
        for name, value in content.items()
    )
    if not content or not (by_stem or by_name):
        return None
    return [
        {**({"text": value} if not isinstance(value, dict) else value), "path": name}
        for name, value in content.items()
    ]


def _are_pairs(value: Any) -> bool:
    """Return whether a value lists names of files, each with something else."""
    pairs = value if isinstance(value, list) else []
    return bool(pairs) and all(isinstance(p, list) and len(p) == 2 and isinstance(p[0], str) for p in pairs)
