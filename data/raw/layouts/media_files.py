"""Images and videos in folders: the first folder is the class, captions and labels lie beside each file."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import partial

from data.raw.annotations.captions import reads
from data.raw.item import Item
from data.raw.layouts.beside import Beside, files_beside, files_of, read_beside
from data.raw.layouts.kohya import folder_of, repeats
from data.raw.layouts.tree import Tree, beginning, file_item


def read(tree: Tree) -> Iterable[Item]:
    """Yield the samples of all media that no table named, in the order of their names."""
    if tree.given:
        return
    media = tree.media()
    beside = files_beside(tree, media)
    used: set[str] = set()
    kohya = repeats(tree, media)
    if not (kohya or tree.tables):
        tree.pass_by(media)
    if tree.tables and media:
        tree.findings.notes["file that no table names, packed with what lies beside it"] += len(media)
    for name in media:
        files = files_of(tree, name, beside)
        used.update(files.values())
        annotation = read_beside(tree, name, files)
        tree.note(annotation)
        more = {}
        if folder := kohya.get(folder_of(name)):
            more["repeats"] = folder[0]
        if annotation.class_name == "" and annotation.label < 0:
            found = (folder[1] if tree.rules.classes else "") if folder else tree.class_of(name)
            annotation = replace(annotation, class_name="" if tree.tables else found)
        item = file_item(tree.source / name, name, annotation, tree.within(name))
        yield replace(item, more={**more, **item.more})
    _note_unread(tree, beside)
    tree.take([*media, *used])


def _note_unread(tree: Tree, beside: Beside) -> None:
    """Note and take the files beside pictures that are not read."""
    for files in beside.values():
        for suffix, name in files.items():
            if not reads(suffix, tree.rules.captions):
                tree.findings.add_companion(suffix, partial(beginning, tree, name))
                tree.take([name])
