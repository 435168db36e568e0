"""Tables that name files, given as the source or lying in it, and Parquet files with the pictures inside.

Recognised by their columns: Hugging Face's `metadata.jsonl|csv|parquet`, `metadata.csv` of DiffSynth
and FastVideo, musubi's JSON lines, LTX's `dataset.json`, finetrainers' `prompts.txt` with `videos.txt`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any

from core.errors import UserError
from data.raw.annotations.roles import JSON, ColumnsConfig, plain, require_columns, role_of
from data.raw.annotations.several import is_about_captions
from data.raw.item import Item, printable
from data.raw.layouts.beside import with_beside
from data.raw.layouts.named.located import located, place_of
from data.raw.layouts.named.nameless import HEADER, note_nameless
from data.raw.layouts.named.other_files import leave_folders, leave_others, note_others
from data.raw.layouts.named.split_tables import left_out
from data.raw.layouts.named.told import Told
from data.raw.layouts.splits import chosen
from data.raw.layouts.tar_per_class import classes_by_name, not_taken
from data.raw.layouts.tree import Tree, with_annotation
from data.raw.tables.kinds import READERS, open_table
from data.raw.tables.row_annotation import annotation_of
from data.raw.tables.rows import HEAD, Embedded, Row, Table
from data.raw.tables.table_columns import (
    FAILED,
    STATUS,
    caption_columns,
    columns_by_key,
    doubtful_splits,
    files_in,
    has_failed,
    other_file_columns,
    split_column,
    with_folder_columns,
)


def read(tree: Tree) -> Iterable[Item]:
    """Yield the samples of all tables, in the order of their names.

    Takes the tables and the files they name.
    """
    media = {str(PurePosixPath(name).with_suffix("")) for name in tree.media()}
    words = classes_by_name([name for name in tree.left if name.lower().endswith(".parquet")])
    nameless: set[str] = set()
    names = [name for name in tree.left if _may_be_table(name, () if tree.given else media)]
    others = left_out(tree, names)
    told = Told(len(names) > 1, others)
    for name in names:
        if name not in tree.left:
            continue  # a table before it took it, as `videos.txt` does `prompts.txt`
        with tree.findings.collecting():
            for item in _items(tree, name, told):
                if name in others:
                    tree.findings.ignored[f"row of split {others[name]}"] += 1
                    continue
                if name in words and item.column and not (item.refused or item.class_name or item.label >= 0):
                    nameless.add(name)
                    item = replace(item, class_name=words[name] if tree.rules.classes else "")
                yield item
    leave_others(tree)
    if nameless and tree.rules.classes is None:
        tree.findings.said.append(not_taken("tables", (words[name] for name in nameless)))


def _may_be_table(name: str, media: Collection[str]) -> bool:
    """Return whether a file is read as a table: one beside a picture of the same name describes that picture.

    media: names of pictures and films without suffix.
    """
    path = PurePosixPath(name)
    suffix = path.suffix.lower()
    return suffix in READERS and not (suffix in (".json", ".txt") and str(path.with_suffix("")) in media)


def _items(tree: Tree, name: str, told: Told) -> Iterator[Item]:
    table = open_table(tree.source / name, tree.rules.encoding, tree.within(name))
    if table is None:
        if tree.given:
            raise UserError(
                "source",
                tree.source / name,
                "a table: a list of objects, or media files as keys with their captions",
            )
        return
    table = with_folder_columns(table, name, tree.rules.columns)
    try:
        if table.headless:
            raise UserError(
                f"{table.path}: its first line is a row ({table.headless}) and names no columns; "
                f"put a line such as {HEADER} before it"
            )
        if table.pictures and not any(role_of(c, tree.rules.columns) == "path" for c in table.pictures):
            raise UserError(
                f"{table.path}: pictures lie in {' and '.join(map(repr, table.pictures))}, which is no usual "
                f"name; columns.path={table.pictures[0]} takes them"
            )
        columns = tree.rules.columns
        if name in told.without:  # of it only the files matter
            columns = ColumnsConfig(path=columns.path)
        require_columns(table.path, table.columns, columns)
    except UserError as error:
        with_path = any(role_of(column, tree.rules.columns) == "path" for column in table.columns)
        if tree.given or table.pictures or (with_path and not table.headless):
            raise  # it names or holds pictures, and passing over it would lose them or their texts
        tree.nameless.append(error)
        note_nameless(tree, table, name)
        tree.findings.ignored[PurePosixPath(name).suffix.lower()] += 1
        tree.take([name])
        return
    tree.take([name, *(str(PurePosixPath(name).with_name(other)) for other in table.also)])
    tree.tables.append(name)
    if table.how:
        tree.findings.said.append(f"{name}: {table.how}")
    _note_columns(tree, table, name)
    yield from _rows_of(tree, table, name, told)


def _note_columns(tree: Tree, table: Table, name: str) -> None:
    """Note the columns that are not read."""
    read = {JSON, plain(split_column(table, tree.rules.columns)), *map(plain, columns_by_key(table))}
    for column in table.columns:
        unread = role_of(column, tree.rules.columns) is None and not is_about_captions(column)
        if unread and plain(column) not in read:
            tree.findings.add_column(name, column, [fields.get(column) for fields in table.head])
    for column in doubtful_splits(table, tree.rules.columns):
        tree.findings.said.append(
            f"warning: column {column!r} of {name} seems to name splits and is not read, so "
            "all rows are packed; a column `split` with such words as train and test is"
        )


def _note_late(tree: Tree, name: str, late: Mapping[str, list[Any]]) -> None:
    """Note the columns that only later rows of JSON lines have. late: values by column."""
    for column, values in late.items():
        if role_of(column, tree.rules.columns) is None and not is_about_captions(column):
            tree.findings.add_column(name, column, values)


def _rows_of(tree: Tree, table: Table, name: str, told: Told) -> Iterator[Item]:
    """Yield the samples of a table that names files; count those of splits that are not wanted."""
    columns = tree.rules.columns
    split, others = split_column(table, columns), other_file_columns(table, columns)
    wanted = [c for c in table.columns if role_of(c, columns) or c in (split, STATUS) or plain(c) == JSON]
    wanted += [c for c in (*caption_columns(table), *others) if c not in wanted]
    known = set(table.columns)
    left_out: Counter[str] = Counter()
    splits: Counter[str] = Counter()
    named: set[str] = set()
    unwanted: set[str] = set()  # files of other splits, which are no samples for want of a row
    shown = PurePosixPath(name).name if tree.given else name
    if not table.head and next(table.rows(tuple(wanted)), None) is None:
        tree.findings.said.append(f"{name}: names columns and has no rows")
    late: dict[str, list[Any]] = {}
    for row in table.rows(tuple(wanted)):
        for column in row.fields.keys() - known:
            if len(values := late.setdefault(column, [])) < HEAD:
                values.append(row.fields[column])
        if split and not row.problem:
            splits[part := str(row.fields.get(split))] += 1
            if tree.rules.splits and part not in tree.rules.splits:
                left_out[part] += 1
                unwanted.update(_places(tree, table, row))
                continue
        for column in others:
            note_others(tree, table, row, column)
        item = _row_item(tree, table, row, f"{shown}:{row.number}", told, named)
        if item is not None:
            yield item
    if split:
        chosen(tree, splits, "row")
        tree.findings.ignored.update({f"row of split {part}": count for part, count in left_out.items()})
    _note_late(tree, name, late)
    tree.take(named | unwanted)
    leave_folders(tree, named)


def _places(tree: Tree, table: Table, row: Row) -> Iterator[str]:
    """Yield the files of the source that a row names as its path."""
    for column, value in row.fields.items():
        if role_of(column, tree.rules.columns) == "path":
            for text in [str(value)] if isinstance(value, str | int) else files_in(value):
                yield place_of(tree, table.path, text)


def _row_item(tree: Tree, table: Table, row: Row, name: str, told: Told, named: set[str]) -> Item | None:
    """Return the sample of one row; None if its file is of another split, or a sample already."""
    if row.problem:
        return Item(name, table.path, 0, 0, refused=("list", row.problem))
    embedded = None
    for column, value in row.fields.items():
        if isinstance(value, Embedded) and role_of(column, tree.rules.columns) == "path":
            if embedded is not None:
                raise UserError(
                    f"{table.path}: row {row.number} holds two pictures, in {embedded.column!r} and "
                    f"{column!r}; columns.path=NAME says which is meant"
                )
            embedded = value
    if embedded is not None:
        return _embedded_item(tree, table, row, embedded, name)
    annotation = annotation_of(table, row, tree.rules.columns, with_path=True)
    if not annotation.path and has_failed(row.fields):
        tree.findings.ignored[FAILED] += 1
        return None
    if not annotation.path:
        tree.note(annotation)
        named.update(_places(tree, table, row))  # of a row that is set aside, and no samples without it
        missing = "picture" if table.pictures else "path"
        refused = annotation.refused or ("list", f"the row has no {missing}")
        return Item(name, table.path, 0, 0, refused=refused)
    item, relative = located(tree, table.path, annotation)
    said, place = annotation, relative or str(item.path)
    annotation = with_beside(tree, relative, replace(annotation, refused=item.refused))
    tree.note(annotation)
    item = with_annotation(item, annotation)
    if relative in tree.left_out:
        tree.findings.ignored["row of a file of another split"] += 1
        return None
    readable = "" if item.refused else relative
    is_file = bool(relative) or not item.refused  # else its path is that of the table
    is_repeated = told.repeats(tree, table, row, readable, said, is_again=is_file and place in named)
    named.add(place)
    return None if is_repeated else item


def _embedded_item(tree: Tree, table: Table, row: Row, embedded: Embedded, name: str) -> Item:
    """Return the sample of a picture that is embedded in the table."""
    annotation = annotation_of(table, row, tree.rules.columns, with_path=False)
    tree.note(annotation)
    within = tree.within(str(table.path.relative_to(tree.source)))
    shown = f"{name}/{printable(embedded.name)}" if embedded.name else name
    item = Item(shown, table.path, row.number - 1, embedded.size, column=embedded.column, within=within)
    return with_annotation(item, annotation)
