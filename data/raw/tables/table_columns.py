"""Columns of a table beside path, text and label: splits, other files, captions named by a key, states."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import unquote

from data.media.formats import MEDIA_SUFFIXES
from data.raw.annotations.roles import JSON, ColumnsConfig, plain, role_of
from data.raw.annotations.several import is_about_captions, is_caption_key
from data.raw.annotations.split_names import is_split
from data.raw.tables.rows import Row, Table

SPLIT = ("split", "splits", "subset", "partition", "usage", "set", "datasplit", "phase")  # plain names
STATUS = "status"  # of img2dataset and video2dataset: success, failed_to_download, ...
FAILED = "row without a picture, whose status says that it failed"


def split_column(table: Table, columns: ColumnsConfig) -> str:
    """Return the column that holds splits, "" for none.

    One called `split` holds some of the usual words, others nothing else.
    """
    for name in table.columns:
        if plain(name) in SPLIT and role_of(name, columns) is None:
            known = [is_split(str(fields.get(name))) for fields in table.head]
            if all(known) if plain(name) != SPLIT[0] else any(known):
                return name if known else ""
    return ""


def doubtful_splits(table: Table, columns: ColumnsConfig) -> list[str]:
    """Return unread columns that seem to say which rows are for tests, in a form that is not read."""
    read = split_column(table, columns)
    return [
        name
        for name in table.columns
        if role_of(name, columns) is None
        and name != read
        and _may_be_split(name, [fields.get(name) for fields in table.head])
    ]


def _may_be_split(name: str, values: list[Any]) -> bool:
    """Return whether a column is called as splits are (`is_test`), or holds words with theirs in them."""
    words = re.split(r"[\W_]+", name)
    if any(map(is_split, words)) and all(isinstance(value, int) or len(str(value)) < 20 for value in values):
        return True
    told = {str(value).lower() for value in values}
    return plain(name) in SPLIT and any(re.search("train|test|valid", value) for value in told)


def with_folder_columns(table: Table, name: str, columns: ColumnsConfig) -> Table:
    """Return the table with the columns that its folders name as Hive does, `class=cat/part-0.parquet`.

    name: of the table's file in the source. Columns of the table itself go first.
    """
    pairs = (part.partition("=")[::2] for part in PurePosixPath(name).parts[:-1])
    found = {
        key: unquote(value)
        for key, value in pairs
        if value and key not in table.columns and role_of(key, columns) in ("text", "label", "class")
    }
    if not found:
        return table

    def rows(wanted: tuple[str, ...]) -> Iterator[Row]:
        return (row._replace(fields={**row.fields, **found}) for row in table.rows(wanted))

    head = tuple({**fields, **found} for fields in table.head)
    return replace(table, columns=(*table.columns, *found), rows=rows, head=head)


def caption_columns(table: Table) -> list[str]:
    """Return columns that concern captions, and where one names the caption, all that may hold it."""
    about = [name for name in table.columns if is_about_captions(name)]
    if not any(map(is_caption_key, about)):
        return about
    held = {n for fields in table.head for n, v in fields.items() if isinstance(v, str | list | tuple | dict)}
    return [name for name in table.columns if name in held or name in about]


def columns_by_key(table: Table) -> list[str]:
    """Return the columns that a column `caption_key` names in the first rows."""
    keys = [value for fields in table.head for name, value in fields.items() if is_caption_key(name)]
    return [
        key
        for value in keys
        for key in (value if isinstance(value, list) else [value])
        if key in table.columns
    ]


def other_file_columns(table: Table, columns: ColumnsConfig) -> list[str]:
    """Return unread columns that name pictures or films: controls, references and masks of the sample."""
    return [
        name
        for name in table.columns
        if role_of(name, columns) is None
        and plain(name) != JSON
        and any(True for fields in table.head for _ in files_in(fields.get(name)))
    ]


def files_in(value: Any) -> Iterator[str]:
    """Yield the names of pictures and films in a cell, in lists and objects too."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for part in value:
            yield from files_in(part)
    elif isinstance(value, str) and value.lower().endswith(MEDIA_SUFFIXES):
        yield value


def has_failed(fields: Mapping[str, Any]) -> bool:
    """Return whether a row says that its picture could not be had."""
    return str(fields.get(STATUS) or "").startswith("failed")
