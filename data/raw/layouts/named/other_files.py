"""Files that tables name and that are no samples: controls, references and masks, folders of frames."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import PurePosixPath

from data.raw.layouts.named.located import place_of
from data.raw.layouts.tree import Tree
from data.raw.tables.rows import Row, Table
from data.raw.tables.table_columns import files_in

FRAMES = "in a folder that a table names as one sample"


def note_others(tree: Tree, table: Table, row: Row, column: str) -> None:
    """Note the files of the source that an unread column names, such as controls and masks."""
    for text in files_in(row.fields.get(column)):
        if name := place_of(tree, table.path, text):
            tree.named_otherwise.setdefault(name, column)


def leave_others(tree: Tree) -> None:
    """Leave out files that tables name in unread columns alone: a control of a sample is no sample."""
    for name, column in tree.named_otherwise.items():
        if name in tree.left:
            tree.take([name])
            tree.findings.ignored[f"named by column {column!r} alone, which is not read"] += 1


def leave_folders(tree: Tree, named: Collection[str]) -> None:
    """Leave out what lies in folders that rows name: the row is set aside, and its frames are no samples."""
    if tree.given:
        return
    folders = {name for name in named if os.path.isdir(tree.source / name)}
    if not folders:
        return
    for name in list(tree.left):
        if any(str(parent) in folders for parent in PurePosixPath(name).parents):
            tree.take([name])
            tree.findings.ignored[FRAMES] += 1
