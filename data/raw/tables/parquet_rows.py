"""Parquet: columns of values, and pictures in the file itself (Hugging Face's image{bytes, path})."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from core.errors import UserError
from core.reading import json_files
from core.reading.json_files import Malformed
from data.media.formats import HEAD as FIRST_BYTES
from data.media.formats import MediaError, suffix_of
from data.raw.annotations.roles import JSON, plain, role_of
from data.raw.annotations.text_encoding import Encoding
from data.raw.opening import open_within
from data.raw.tables.rows import HEAD, UNDECODED, Embedded, Row, Table

BATCH = 64  # rows with pictures read at once


def read(path: Path, encoding: Encoding, within: str) -> Table:
    """Open a table; UserError if it is no readable Parquet file, or pyarrow is not installed."""
    parquet, error_type = _pyarrow(path)
    try:
        with open_within(path, within) as raw, parquet.ParquetFile(raw) as file:
            schema = file.schema_arrow
            if twice := sorted({name for name in schema.names if schema.names.count(name) > 1}):
                raise UserError(f"{path}: there are two columns {' and '.join(map(repr, twice))}")
            head: list[dict[str, Any]] = []
            shown = [name for name in schema.names if not _are_pictures(name, schema.field(name).type)]
            for batch in file.iter_batches(HEAD, columns=shown):
                head = _dicts(batch, shown)
                break
            pictures = tuple(n for n in schema.names if n not in shown and _begins_with_picture(file, n))
    except error_type as error:
        raise _unreadable(path, error) from None

    def rows(wanted: tuple[str, ...] = ()) -> Iterator[Row]:
        return _rows(path, within, [name for name in schema.names if not wanted or name in wanted])

    return Table(
        path,
        tuple(schema.names),
        rows,
        tuple(head),
        names=_class_names(schema),
        has_encoding=False,
        pictures=pictures,
    )


def _begins_with_picture(file: Any, name: str) -> bool:
    """Return whether the first cell of a column that is filled begins as a picture or film does."""
    for batch in itertools.islice(file.iter_batches(1, columns=[name]), HEAD):
        (data,) = _bytes_of(batch.column(0)).to_pylist()
        if data is not None:
            try:
                return bool(suffix_of(data[:FIRST_BYTES]))
            except MediaError:
                return False
    return False


def read_cell(path: Path, column: str, row: int, within: str) -> bytes:
    """Read the bytes of the picture in one row; MediaError if they are not there any more."""
    starts, cells = _group(path, column, row, within)
    data = cells[row - starts].as_py()
    if data is None:
        raise MediaError(f"row {row + 1} of {path.name} has no bytes in {column}")
    return bytes(data)


def _group(path: Path, column: str, row: int, within: str) -> tuple[int, Any]:
    """Return the first row of the row group that holds `row`, and the cells of its column."""
    begin = 0
    ends = _group_ends(path, path.stat().st_mtime_ns, within)
    for number, end in enumerate(ends):
        if row < end:
            return begin, _cells(path, column, number, within)
        begin = end
    raise MediaError(f"{path.name} has no row {row + 1} any more")


@functools.lru_cache(maxsize=64)
def _group_ends(path: Path, changed: int, within: str) -> list[int]:
    parquet, error_type = _pyarrow(path)
    try:
        with open_within(path, within) as raw, parquet.ParquetFile(raw) as file:
            sizes = [file.metadata.row_group(k).num_rows for k in range(file.num_row_groups)]
    except error_type as error:
        raise MediaError(f"not a readable Parquet file any more ({_one_line(error)})") from None
    return [sum(sizes[: k + 1]) for k in range(len(sizes))]


@functools.lru_cache(maxsize=2)  # neighbours lie in one row group, which is read as a whole
def _cells(path: Path, column: str, group: int, within: str) -> Any:
    parquet, error_type = _pyarrow(path)
    try:
        with open_within(path, within) as raw, parquet.ParquetFile(raw) as file:
            table = file.read_row_group(group, columns=[column])
    except error_type as error:
        raise MediaError(f"row group {group} of {path.name} is not readable ({_one_line(error)})") from None
    return _bytes_of(table.column(0).combine_chunks())


def _rows(path: Path, within: str, names: list[str]) -> Iterator[Row]:
    parquet, error_type = _pyarrow(path)
    number = 0
    try:
        with open_within(path, within) as raw, parquet.ParquetFile(raw) as file:
            media = any(_are_pictures(name, file.schema_arrow.field(name).type) for name in names)
            for batch in file.iter_batches(BATCH if media else 1 << 14, columns=names):
                for fields in _dicts(batch, names):
                    number += 1
                    yield Row(number, fields)
    except error_type as error:
        raise _unreadable(path, error) from None


def _dicts(batch: Any, names: list[str]) -> list[dict[str, Any]]:
    columns = [_values(batch.column(name), name) for name in names]
    return [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]


def _values(column: Any, name: str) -> list[Any]:
    import pyarrow

    if pyarrow.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if _are_pictures(name, column.type):
        return _embedded(column, name)
    if _is_text(column.type):
        values = column.cast(pyarrow.large_binary()).to_pylist()  # Arrow trusts the file to hold UTF-8
        return [None if value is None else value.decode("utf-8", UNDECODED) for value in values]
    column = column.cast(_without_times(column.type))
    if pyarrow.types.is_map(column.type):  # which Arrow gives as pairs
        return [value if value is None else dict(value) for value in column.to_pylist()]
    return list(column.to_pylist())


def _without_times(kind: Any) -> Any:
    """Return a type with counts in the place of times, which Python cannot hold as finely or as far away."""
    import pyarrow

    if pyarrow.types.is_temporal(kind):
        return pyarrow.int32() if kind.bit_width == 32 else pyarrow.int64()
    if not pyarrow.types.is_nested(kind) or pyarrow.types.is_map(kind):
        return kind
    parts = [kind.field(k) for k in range(kind.num_fields)]
    parts = [part.with_type(_without_times(part.type)) for part in parts]
    return pyarrow.struct(parts) if pyarrow.types.is_struct(kind) else pyarrow.large_list(parts[0])


def _embedded(column: Any, name: str) -> list[Any]:
    """Return the values of a column of pictures: `Embedded`, the path of a file beside the table, or None."""
    import pyarrow

    sizes = _lengths(_bytes_of(column))
    if not pyarrow.types.is_struct(column.type):
        return [None if size is None else Embedded(name, size, "") for size in sizes]
    has_path = "path" in [field.name for field in column.type]
    paths = column.field("path").to_pylist() if has_path else [None] * len(sizes)
    return [
        path if size is None else Embedded(name, size, path or "")
        for size, path in zip(sizes, paths, strict=True)
    ]


def _lengths(cells: Any) -> list[int | None]:
    from pyarrow import compute

    return [None if size is None else int(size) for size in compute.binary_length(cells).to_pylist()]


def _bytes_of(column: Any) -> Any:
    """Return the cells of bytes in a column of pictures; a null struct has null bytes."""
    import pyarrow

    if pyarrow.types.is_struct(column.type):
        names = [field.name for field in column.type]
        column = column.flatten()[names.index("bytes")] if "bytes" in names else pyarrow.nulls(len(column))
    if pyarrow.types.is_binary(column.type) or pyarrow.types.is_large_binary(column.type):
        return column
    return column.cast(pyarrow.large_binary())


def _is_text(kind: Any) -> bool:
    from pyarrow import types

    strings = types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)
    return bool(strings or (_holds_media(kind) and not types.is_struct(kind)))  # bytes that are text by name


def _are_pictures(name: str, kind: Any) -> bool:
    """Return whether a column holds pictures. Bytes of a column `txt` or `cls`, say, are text."""
    return _holds_media(kind) and plain(name) != JSON and role_of(name) not in ("text", "label", "class")


def _holds_media(kind: Any) -> bool:
    """Return whether a column may hold pictures: binary, or a struct of `bytes` and `path`.

    Where no row has bytes Arrow knows no type of them: all pictures are files then, which `path` names.
    """
    from pyarrow import types

    if types.is_struct(kind):
        names = [field.name for field in kind]
        if "bytes" not in names:
            return names == ["path"]
        return types.is_null(kind.field("bytes").type) or _holds_media(kind.field("bytes").type)
    return bool(
        types.is_binary(kind)
        or types.is_large_binary(kind)
        or types.is_binary_view(kind)
        or types.is_fixed_size_binary(kind)
    )


def _class_names(schema: Any) -> dict[str, tuple[str, ...]]:
    """Return the names of the classes in columns that Hugging Face's `datasets` wrote as ClassLabel."""
    try:
        found = json_files.loaded((schema.metadata or {}).get(b"huggingface", b"{}"), "huggingface")
        features = found["info"]["features"]
        return {
            name: tuple(feature["names"])
            for name, feature in features.items()
            if isinstance(feature, dict) and feature.get("_type") == "ClassLabel" and "names" in feature
        }
    except (Malformed, KeyError, TypeError, AttributeError):
        return {}  # written by another program


def _pyarrow(path: Path) -> tuple[Any, Any]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise UserError(f"{path}: reading Parquet needs pyarrow: pip install 'longtake[tables]'") from None
    return parquet, pyarrow.ArrowException


def _unreadable(path: Path, error: Exception) -> UserError:
    return UserError(f"{path}: not a readable Parquet file ({_one_line(error)})")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
