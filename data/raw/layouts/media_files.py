"""Images and videos in folders: the first folder is the class, captions and labels lie beside each file."""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import PurePosixPath

from data.media.formats import MEDIA_SUFFIXES
from data.raw.annotations.annotation import LONGEST_BYTES, Annotation
from data.raw.annotations.captions import carrier, combined, reads
from data.raw.item import Item
from data.raw.layouts.kohya import folder_of, repeats
from data.raw.layouts.tree import KINDS_OF_MEDIA, Tree, beginning, file_item

Beside = dict[str, dict[str, str]]  # picture or its stem -> suffix -> file beside it

CAPTION_FOLDERS = ("captions", "caption", "texts", "text", "prompts", "prompt", "txt")
"""Folders whose files are called as pictures elsewhere are: `captions/0.txt` of `images/0.png`."""


def read(tree: Tree) -> Iterable[Item]:
    """Yield the samples of all media that no table named, in the order of their names."""
    if tree.given:
        return
    media = [name for name in tree.left if name.lower().endswith(MEDIA_SUFFIXES)]
    beside = _beside(tree, media)
    used: set[str] = set()
    kohya = repeats(tree, media)
    if not (kohya or tree.tables):
        tree.pass_by(media)
    if tree.tables and media:
        tree.findings.notes["file that no table names, packed with what lies beside it"] += len(media)
    for name in media:
        files = _files_of(name, beside)
        used.update(files.values())
        annotation = _annotation(tree, files)
        tree.note(annotation)
        more = {}
        if folder := kohya.get(folder_of(name)):
            more["repeats"] = folder[0]
        if annotation.class_name == "" and annotation.label < 0:
            found = (folder[1] if tree.rules.classes else "") if folder else tree.class_of(name)
            annotation = replace(annotation, class_name="" if tree.tables else found)
        item = file_item(tree.source / name, name, annotation, tree.within(name))
        yield replace(item, more={**more, **item.more})
    _note_unread(tree, beside, used)
    tree.take([*media, *used])


def _beside(tree: Tree, media: Iterable[str]) -> Beside:
    """Return the files beside each picture, by its name with and without suffix: `0.txt`, `0.caption.txt`."""
    owners = {
        _composed(owner) for name in media for owner in (name, str(PurePosixPath(name).with_suffix("")))
    }
    found: Beside = defaultdict(dict)
    found.update(_in_caption_folders(tree, media))
    for name in tree.left:
        if name.lower().endswith((*MEDIA_SUFFIXES, ".tar")):
            continue
        folder, slash, base = name.rpartition("/")
        at = len(base)
        while (at := base.rfind(".", 1, at)) > 0:
            owner = _composed(f"{folder}{slash}{base[:at]}")
            if owner in owners:
                found[owner][base[at + 1 :].lower()] = name
                break
    return found


def _in_caption_folders(tree: Tree, media: Iterable[str]) -> Beside:
    """Return the captions that lie in a folder of their own, of the one picture each is called after."""
    files = {
        name: key
        for name in tree.left
        if carrier(PurePosixPath(name).suffix[1:]) == "text" and (key := _apart(name, CAPTION_FOLDERS))
    }
    if not files:
        return {}
    called: dict[str, list[str]] = defaultdict(list)
    for name in media:
        stem = _composed(str(PurePosixPath(name).with_suffix("")))
        called[_apart(name, KINDS_OF_MEDIA) or stem].append(stem)
    return {
        called[key][0]: {PurePosixPath(name).suffix[1:].lower(): name}
        for name, key in files.items()
        if len(called.get(key, ())) == 1
    }


def _apart(name: str, folders: Sequence[str]) -> str:
    """Return a file's name without suffix and without the first of its folders that is one of these.

    "" if none is.
    """
    *parts, base = PurePosixPath(_composed(name)).with_suffix("").parts
    at = next((at for at, part in enumerate(parts) if part.lower() in folders), None)
    return "" if at is None else "/".join([*parts[:at], *parts[at + 1 :], base])


def _files_of(name: str, beside: Beside) -> dict[str, str]:
    """Return {suffix: file} of the files that say something about a picture."""
    stem = str(PurePosixPath(name).with_suffix(""))
    return {**beside.get(_composed(name), {}), **beside.get(_composed(stem), {})}


def _composed(name: str) -> str:
    """Return a name in Unicode's NFC, since files that belong together may come from different systems."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def _annotation(tree: Tree, files: dict[str, str]) -> Annotation:
    contents = {}
    for suffix, file_name in files.items():
        if not reads(suffix, tree.rules.captions):
            continue
        try:
            with open(tree.source / file_name, "rb", opener=tree.opener(file_name)) as file:
                contents[suffix] = file.read(LONGEST_BYTES + 1)
        except OSError as error:
            return Annotation(refused=("caption", f"{file_name}: {error.strerror}"))
    return combined(contents, tree.rules.columns, tree.rules.captions, tree.rules.encoding)


def _note_unread(tree: Tree, beside: Beside, used: set[str]) -> None:
    """Note the files beside pictures that are not read."""
    for files in beside.values():
        for suffix, name in files.items():
            if not reads(suffix, tree.rules.captions):
                tree.findings.add_companion(suffix, partial(beginning, tree, name))
                tree.take([name])
