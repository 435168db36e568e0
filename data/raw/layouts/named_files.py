"""Tables that name files, given as the source or lying in it, and Parquet files with the pictures inside.

Recognised by their columns: Hugging Face's `metadata.jsonl|csv|parquet`, `metadata.csv` of DiffSynth
and FastVideo, musubi's JSON lines, LTX's `dataset.json`, finetrainers' `prompts.txt` with `videos.txt`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace
from pathlib import PurePosixPath

from core.errors import UserError
from data.media.formats import MEDIA_SUFFIXES
from data.raw.annotations.roles import JSON, plain, require_columns, role_of
from data.raw.annotations.several import is_about_captions
from data.raw.ignored import ignored_as
from data.raw.item import Item, printable
from data.raw.layouts.beside import with_beside
from data.raw.layouts.located import located, place_of
from data.raw.layouts.nameless import HEADER, note_nameless
from data.raw.layouts.split_tables import left_out
from data.raw.layouts.splits import chosen
from data.raw.layouts.tar_per_class import classes_by_name, not_taken
from data.raw.layouts.tree import Tree, with_annotation
from data.raw.tables.kinds import READERS, open_table
from data.raw.tables.row_annotation import annotation_of
from data.raw.tables.rows import Embedded, Row, Table
from data.raw.tables.table_columns import (
    FAILED,
    STATUS,
    caption_columns,
    columns_by_key,
    files_in,
    has_failed,
    other_file_columns,
    split_column,
)


def read(tree: Tree) -> Iterable[Item]:
    """Yield the samples of all tables, in the order of their names.

    Takes the tables and the files they name.
    """
    media = {str(PurePosixPath(n).with_suffix("")) for n in tree.left if n.lower().endswith(MEDIA_SUFFIXES)}
    words = classes_by_name([name for name in tree.left if name.lower().endswith(".parquet")])
    nameless: set[str] = set()
    names = [name for name in tree.left if _may_be_table(name, () if tree.given else media)]
    others = left_out(tree, names)
    for name in names:
        if name not in tree.left:
            continue  # a table before it took it, as `videos.txt` does `prompts.txt`
        with tree.findings.collecting():
            for item in _items(tree, name):
                if name in others:
                    tree.findings.ignored[f"row of split {others[name]}"] += 1
                    continue
                if name in words and item.column and not (item.refused or item.class_name or item.label >= 0):
                    nameless.add(name)
                    item = replace(item, class_name=words[name] if tree.rules.classes else "")
                yield item
    _leave_others(tree)
    if nameless and tree.rules.classes is None:
        tree.findings.said.append(not_taken("tables", (words[name] for name in nameless)))


def _may_be_table(name: str, media: Collection[str]) -> bool:
    """Return whether a file is read as a table: one beside a picture of the same name describes that picture.

    media: names of pictures and films without suffix.
    """
    path = PurePosixPath(name)
    suffix = path.suffix.lower()
    return suffix in READERS and not (suffix in (".json", ".txt") and str(path.with_suffix("")) in media)


def _items(tree: Tree, name: str) -> Iterator[Item]:
    table = open_table(tree.source / name, tree.rules.encoding, tree.within(name))
    if table is None:
        if tree.given:
            raise UserError(
                "source",
                tree.source / name,
                "a table: a list of objects, or media files as keys with their captions",
            )
        return
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
        require_columns(table.path, table.columns, tree.rules.columns)
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
    yield from _rows_of(tree, table, name)


def _note_columns(tree: Tree, table: Table, name: str) -> None:
    """Note the columns that are not read."""
    read = {JSON, plain(split_column(table, tree.rules.columns)), *map(plain, columns_by_key(table))}
    for column in table.columns:
        unread = role_of(column, tree.rules.columns) is None and not is_about_captions(column)
        if unread and plain(column) not in read:
            tree.findings.add_column(name, column, [fields.get(column) for fields in table.head])


def _rows_of(tree: Tree, table: Table, name: str) -> Iterator[Item]:
    """Yield the samples of a table that names files; count those of splits that are not wanted."""
    columns = tree.rules.columns
    split, others = split_column(table, columns), other_file_columns(table, columns)
    wanted = [c for c in table.columns if role_of(c, columns) or c in (split, STATUS) or plain(c) == JSON]
    wanted += [c for c in (*caption_columns(table), *others) if c not in wanted]
    left_out: Counter[str] = Counter()
    splits: Counter[str] = Counter()
    named: set[str] = set()
    unwanted: set[str] = set()  # files of other splits, which are no samples for want of a row
    shown = PurePosixPath(name).name if tree.given else name
    if not table.head and next(table.rows(tuple(wanted)), None) is None:
        tree.findings.said.append(f"{name}: names columns and has no rows")
    for row in table.rows(tuple(wanted)):
        if split and not row.problem:
            splits[part := str(row.fields.get(split))] += 1
            if tree.rules.splits and part not in tree.rules.splits:
                left_out[part] += 1
                unwanted.update(_places(tree, table, row))
                continue
        for column in others:
            _note_others(tree, table, row, column)
        item = _row_item(tree, table, row, f"{shown}:{row.number}", named)
        if item is not None:
            yield item
    if split:
        chosen(tree, splits, "row")
        tree.findings.ignored.update({f"row of split {part}": count for part, count in left_out.items()})
    tree.take(named | unwanted)


def _places(tree: Tree, table: Table, row: Row) -> Iterator[str]:
    """Yield the files of the source that a row names as its path."""
    for column, value in row.fields.items():
        if role_of(column, tree.rules.columns) == "path":
            for text in [value] if isinstance(value, str) else files_in(value):
                yield place_of(tree, table.path, text)


def _row_item(tree: Tree, table: Table, row: Row, name: str, named: set[str]) -> Item | None:
    """Return the sample of one row; None if its file belongs to a split that is not packed."""
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
        missing = "picture" if table.pictures else "path"
        refused = annotation.refused or ("list", f"the row has no {missing}")
        return Item(name, table.path, 0, 0, refused=refused)
    item, relative = located(tree, table.path, annotation)
    annotation = with_beside(tree, relative, replace(annotation, refused=item.refused))
    tree.note(annotation)
    item = with_annotation(item, annotation)
    if relative in tree.left_out:
        tree.findings.ignored["row of a file of another split"] += 1
        return None
    _once(tree, table, row, item, relative, named)
    named.add(relative or str(item.path))
    return item


def _note_others(tree: Tree, table: Table, row: Row, column: str) -> None:
    """Note the files of the source that an unread column names, such as controls and masks."""
    for text in files_in(row.fields.get(column)):
        if name := place_of(tree, table.path, text):
            tree.named_otherwise.setdefault(name, column)


def _leave_others(tree: Tree) -> None:
    """Leave out files that tables name in unread columns alone: a control of a sample is no sample."""
    for name, column in tree.named_otherwise.items():
        if name in tree.left:
            tree.take([name])
            tree.findings.ignored[f"named by column {column!r} alone, which is not read"] += 1


def _once(tree: Tree, table: Table, row: Row, item: Item, relative: str, named: set[str]) -> None:
    """Count a file that a row before names too; UserError if another table took it.

    Two tables of the same files would make each a sample twice, with what either says of it.
    """
    if (relative or str(item.path)) in named:
        tree.findings.notes["row of a file that a row before names too, each a sample"] += 1
    elif (
        len(tree.tables) > 1
        and relative
        and not (item.refused or relative in tree.left or ignored_as(relative))
    ):
        others = ", ".join(tree.tables[:-1])
        raise UserError(
            f"{table.path}: row {row.number}: {relative} is named by another table too ({others}); "
            "give the one that is meant as the source, or move the other away"
        )


def _embedded_item(tree: Tree, table: Table, row: Row, embedded: Embedded, name: str) -> Item:
    """Return the sample of a picture that is embedded in the table."""
    annotation = annotation_of(table, row, tree.rules.columns, with_path=False)
    tree.note(annotation)
    within = tree.within(str(table.path.relative_to(tree.source)))
    shown = f"{name}/{printable(embedded.name)}" if embedded.name else name
    item = Item(shown, table.path, row.number - 1, embedded.size, column=embedded.column, within=within)
    return with_annotation(item, annotation)
