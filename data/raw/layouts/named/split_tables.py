"""Tables called by splits, `train.csv` and `test.csv`, that name files of one folder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import PurePosixPath

from core.errors import UserError
from data.raw.annotations.roles import role_of
from data.raw.annotations.split_names import split_in
from data.raw.layouts.splits import chosen
from data.raw.layouts.tree import Tree
from data.raw.tables.kinds import open_table


def left_out(tree: Tree, tables: Iterable[str]) -> dict[str, str]:
    """Return {table: its split} of the tables of splits that are not to be packed.

    Tables are splits where they are called by two or more, and nothing else in the source is. UserError
    unless it is clear which to pack.
    """
    called = {name: split for name in tables if (split := split_in(PurePosixPath(name).stem))}
    if tree.has_splits or tree.given or len(set(called.values())) < 2:
        return {}
    called = {name: split for name, split in called.items() if _names_files(tree, name)}
    if len(set(called.values())) < 2:
        return {}
    wanted = chosen(tree, Counter(called.values()), "table")
    tree.findings.said.append(f"splits packed: {', '.join(wanted)}")
    return {name: split for name, split in called.items() if split not in wanted}


def _names_files(tree: Tree, name: str) -> bool:
    """Return whether a table has a column for the path; what is wrong with it is said where it is read."""
    try:
        table = open_table(tree.source / name, tree.rules.encoding, tree.within(name))
    except (UserError, OSError):
        return False
    return table is not None and any(role_of(c, tree.rules.columns) == "path" for c in table.columns)
