"""Files of text that nothing reads: in other folders, called after classes or after nothing."""

from __future__ import annotations

from collections.abc import Container, Sequence
from pathlib import PurePosixPath

from data.media.formats import MEDIA_SUFFIXES
from data.raw.annotations.captions import carrier
from data.raw.annotations.split_names import split_in
from data.raw.annotations.text_encoding import encoding_of, is_text
from data.raw.item import Item
from data.raw.layouts.tree import Tree, beginning

MOVED = "moving them beside the pictures that are called so"
COPIED = "a copy beside each picture, called as that is,"
RENAMED = "calling each as its picture is"


def note_apart(tree: Tree, items: Sequence[Item], stems: Container[str]) -> None:
    """Note files that are called as pictures of other folders are, `captions/0.txt` of `images/0.png`.

    So are files of text that are called as folders of samples are, `cat.txt` of `cat/`, and those that are
    called as nothing is where there are half as many as samples.

    stems: the names of samples without folder and suffix.
    """
    if tree.given:
        return
    apart = {_stem(name): name for name in tree.left if carrier(PurePosixPath(name).suffix[1:])}
    if found := next((name for stem, name in apart.items() if stem in stems), ""):
        folder, suffix = PurePosixPath(found).parts[0], PurePosixPath(found).suffix
        alike = [n for n in tree.left if n.endswith(suffix) and PurePosixPath(n).parts[0] == folder]
        tree.findings.add_apart(f"{folder}/*{suffix}", len(alike), beginning(tree, found), MOVED)
        tree.take(alike)
    texts = [name for name in tree.left if _may_be_caption(tree, name, stems)]
    if not texts:
        return
    folders = {str(PurePosixPath(item.name).parent) for item in items}
    folders |= {folder.removesuffix(".tar") for folder in folders}
    of_classes: list[str] = []
    rest: list[str] = []
    for name in texts:
        (of_classes if str(PurePosixPath(name).with_suffix("")) in folders else rest).append(name)
    _note(tree, of_classes, "called as folders are", COPIED)
    if len(rest) > 1 and 2 * len(rest) >= len(items):
        _note(tree, rest, "called as no picture is", RENAMED)


def _note(tree: Tree, names: Sequence[str], called: str, way: str) -> None:
    if names:
        what = f"files of text that are {called} ({names[0]}{' ...' if len(names) > 1 else ''})"
        tree.findings.add_apart(what, len(names), beginning(tree, names[0]), way)
        tree.take(names)


def _stem(name: str) -> str:
    """Return the name of the picture that a file may be called after: `0` of `0.txt` and `0.png.txt`."""
    path = PurePosixPath(name).with_suffix("")
    return path.stem if path.name.lower().endswith(MEDIA_SUFFIXES) else path.name


def _may_be_caption(tree: Tree, name: str, stems: Container[str]) -> bool:
    """Return whether a file of text names no pictures, as lists do, and says more than names of samples."""
    path = PurePosixPath(name)
    if carrier(path.suffix[1:]) != "text" or split_in(path.stem):
        return False
    head = beginning(tree, name)
    text = head.decode(encoding_of(head), errors="replace")
    if not is_text(head) or any(word.lower().endswith(MEDIA_SUFFIXES) for word in text.split()):
        return False
    return any(line.strip() not in stems for line in text.split("\n") if line.strip())
