"""Tables that name media: CSV, JSON lines, Parquet, with columns `path`, `label` or `class`, `text`."""

from __future__ import annotations

import csv
import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from core.errors import UserError
from data.raw.captions import Annotation, from_fields

TABLE_SUFFIXES = (".csv", ".jsonl", ".parquet")
COLUMNS = ("path", "label", "class", "text", "caption")
_UNDECODED = "surrogateescape"  # keeps bytes that are not UTF-8, so that only their own row is refused


def table_rows(table: Path) -> Iterator[tuple[str, Annotation]]:
    """Yield (`TABLE:ROW`, annotation) for each row in order; rows count from 1.

    UserError if the table cannot be read as what its suffix says, or has no column `path`. A row that is
    wrong by itself (bad JSON, no path, text that is not UTF-8) comes with `refused` set.
    """
    readers = {".csv": _csv_rows, ".jsonl": _jsonl_rows, ".parquet": _parquet_rows}
    for number, row in enumerate(readers[table.suffix.lower()](table), 1):
        annotation = row if isinstance(row, Annotation) else from_fields(row)
        if not annotation.path and annotation.refused is None:
            annotation = replace(annotation, refused=("list", "the row has no path"))
        yield f"{table.name}:{number}", annotation


def _require_path(table: Path, columns: Collection[str]) -> None:
    if "path" not in columns:
        raise UserError(f"{table}: the column 'path' is missing; it has: {', '.join(columns) or 'none'}")


def _csv_rows(table: Path) -> Iterator[Mapping[str, Any]]:
    with open(table, encoding="utf-8-sig", errors=_UNDECODED, newline="") as file:
        rows = csv.DictReader(file)
        try:
            _require_path(table, rows.fieldnames or ())
            yield from rows
        except csv.Error as error:
            raise UserError(f"{table}: line {rows.line_num}: {error}") from None


def _jsonl_rows(table: Path) -> Iterator[Mapping[str, Any] | Annotation]:
    columns: set[str] = set()
    with open(table, encoding="utf-8-sig", errors=_UNDECODED) as file:
        for line in file:
            if not line.strip():
                continue
            try:
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise ValueError("not a JSON object")
            except (ValueError, RecursionError) as error:
                yield Annotation(refused=("list", f"bad row: {error}"))
                continue
            if not columns:
                _require_path(table, row)
            columns.update(row)
            yield row


def _parquet_rows(table: Path) -> Iterator[Mapping[str, Any]]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise UserError(f"{table}: reading Parquet needs pyarrow: pip install 'longtake[tables]'") from None
    try:
        with parquet.ParquetFile(table) as file:
            _require_path(table, file.schema_arrow.names)
            names = [name for name in COLUMNS if name in file.schema_arrow.names]
            for batch in file.iter_batches(columns=names):
                columns = {name: _parquet_column(batch.column(name), pyarrow) for name in names}
                for values in zip(*columns.values(), strict=True):
                    yield dict(zip(names, values, strict=True))
    except pyarrow.ArrowException as error:
        raise UserError(f"{table}: not a readable Parquet file ({' '.join(str(error).split())})") from None


def _parquet_column(column: Any, pyarrow: Any) -> list[Any]:
    if pyarrow.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pyarrow.types.is_string(column.type) or pyarrow.types.is_large_string(column.type):
        values = column.cast(pyarrow.large_binary()).to_pylist()  # Arrow trusts the file to hold UTF-8
        return [None if value is None else value.decode("utf-8", _UNDECODED) for value in values]
    return column.to_pylist()
