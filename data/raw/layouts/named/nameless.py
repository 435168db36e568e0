"""Tables that name no files by their columns: what they hold may be captions or labels all the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from data.raw.annotations.roles import is_nothing
from data.raw.layouts.tree import Tree, beginning
from data.raw.tables.delimited import TABBED
from data.raw.tables.rows import Table

HEADER = "path,text (or path,label)"  # what a table without names of columns lacks


def note_nameless(tree: Tree, table: Table, name: str) -> None:
    """Note all columns of a table that has none for the path, or no header.

    One that holds names of pictures, with or without suffix, makes the others captions or labels.
    """
    values = {column: [fields.get(column) for fields in table.head] for column in table.columns}
    if table.headless:
        values = {column: [column, *found] for column, found in values.items()}
    about = _holds_names(tree, values)
    way = f"a first line such as {HEADER} in {name}" if table.headless else ""
    for column, found in values.items():
        if column != about:
            way = way or (f"columns.path={about}" if about else f"a column 'path' with the files in {name}")
            tree.findings.add_column(name, column, found, way=way, is_about_pictures=bool(about))
    if len(values) == 1 and name.lower().endswith((".csv", *TABBED)):  # a remark may stand above the header
        tree.findings.add_listing(name, beginning(tree, name), f"a first line such as {HEADER} in {name}")


def _holds_names(tree: Tree, values: Mapping[str, Sequence[Any]]) -> str:
    """Return the column most of whose values name pictures of the source, "" for none."""
    media = [PurePosixPath(name) for name in tree.media()]
    names = {name for path in media for name in (str(path), path.name, path.stem, str(path.with_suffix("")))}
    for column, found in values.items():
        given = [str(value).replace("\\", "/").removeprefix("./") for value in found if not is_nothing(value)]
        if given and 2 * sum(value in names for value in given) > len(given):
            return column
    return ""
