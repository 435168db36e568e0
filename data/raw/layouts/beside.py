"""Files beside a picture that hold its caption or label: `0.txt`, `0.info.json`, `captions/0.txt`."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import PurePosixPath

from data.media.formats import MEDIA_SUFFIXES
from data.raw.annotations.annotation import LONGEST_BYTES, Annotation
from data.raw.annotations.captions import carrier, combined, reads
from data.raw.layouts.tree import KINDS_OF_MEDIA, Tree, beginning

Beside = dict[str, dict[str, str]]  # picture or its stem -> suffix -> file beside it

CAPTION_FOLDERS = ("captions", "caption", "texts", "text", "prompts", "prompt", "txt", "metas", "labels")
"""Folders whose files are called as pictures elsewhere are: `captions/0.txt` of `images/0.png`.

`metas` is of Cosmos, `labels` of CogVideo, where it holds captions; YOLO's holds numbers.
"""
LABELS = "labels"
OTHER_CASE = "file beside a picture, whose name differs from the picture's in case"
TABLE_FIRST = "caption or label beside a file, not used: a table says another"


def with_beside(tree: Tree, name: str, annotation: Annotation) -> Annotation:
    """Return what a row of a table says of a file, and what the row leaves open from files beside that one.

    name: of the file in the source, "" for one outside.
    """
    if tree.beside_tables is None:
        tree.beside_tables = _beside_tables(tree)
    files = files_of(tree, name, tree.beside_tables) if name else {}
    if not files or annotation.refused:
        return annotation
    tree.take(files.values())
    found = read_beside(tree, name, files)
    has_label = annotation.label >= 0 or annotation.class_name
    if found.refused:
        said = f"file beside a picture that a table describes, not used: {found.refused[1]}"
        refused = None if annotation.text else found.refused
        return replace(
            annotation, refused=refused, notes=(*annotation.notes, *([said] if annotation.text else []))
        )
    theirs = (found.label, found.class_name)
    other_text = annotation.text and found.text not in ("", annotation.text)
    if other_text or (has_label and theirs not in ((-1, ""), (annotation.label, annotation.class_name))):
        annotation = replace(annotation, notes=(*annotation.notes, TABLE_FIRST))
    if not annotation.text:
        annotation = replace(annotation, text=found.text, captions=found.captions, unused=found.unused)
    if not has_label:
        annotation = replace(annotation, label=found.label, class_name=found.class_name)
    return replace(annotation, notes=(*annotation.notes, *found.notes), unread=found.unread)


def _beside_tables(tree: Tree) -> Beside:
    """Return the files beside pictures of a folder with a table, {} where none can hold a caption."""
    named = not tree.given and any(carrier(PurePosixPath(name).suffix[1:]) for name in tree.left)
    return files_beside(tree, tree.media()) if named else {}


def files_beside(tree: Tree, media: Iterable[str]) -> Beside:
    """Return the files beside each picture, by its name with and without suffix: `0.txt`, `0.caption.txt`."""
    owners = {
        _composed(owner) for name in media for owner in (name, str(PurePosixPath(name).with_suffix("")))
    }
    by_case: dict[str, list[str]] = {}
    found: Beside = defaultdict(dict)
    found.update(_in_caption_folders(tree, media))
    for name in tree.left:
        if name.lower().endswith((*MEDIA_SUFFIXES, ".tar")):
            continue
        folder, slash, base = name.rpartition("/")
        at = len(base)
        while (at := base.rfind(".", 1, at)) > 0:
            owner = _composed(f"{folder}{slash}{base[:at]}")
            if owner not in owners and not by_case:
                by_case = _by_case(owners)
            alike = [owner] if owner in owners else by_case.get(owner.casefold(), [])
            if len(alike) == 1:
                found[alike[0]][base[at + 1 :].lower()] = name
                break
    return found


def _by_case(names: Iterable[str]) -> dict[str, list[str]]:
    """Return the names by their form without case."""
    found: dict[str, list[str]] = defaultdict(list)
    for name in names:
        found[name.casefold()].append(name)
    return found


def _in_caption_folders(tree: Tree, media: Iterable[str]) -> Beside:
    """Return the captions that lie in a folder of their own, of the one picture each is called after."""
    files = {
        name: key
        for name in tree.left
        if carrier(PurePosixPath(name).suffix[1:]) == "text"
        and (key := _apart(str(PurePosixPath(name).with_suffix("")), CAPTION_FOLDERS))
    }
    labels = next((name for name in files if LABELS in name.lower().split("/")), "")
    if labels and not re.search(rb"[A-Za-z\x80-\xff]{2}", beginning(tree, labels)):
        files = {name: key for name, key in files.items() if LABELS not in name.lower().split("/")}
    if not files:
        return {}
    called: dict[str, list[str]] = defaultdict(list)
    for name in media:
        stem = str(PurePosixPath(name).with_suffix(""))
        for key in (stem, name):  # captions/0.txt and captions/0.png.txt
            called[_apart(key, KINDS_OF_MEDIA) or _composed(key)].append(_composed(stem))
    return {
        called[key][0]: {PurePosixPath(name).suffix[1:].lower(): name}
        for name, key in files.items()
        if len(called.get(key, ())) == 1
    }


def _apart(name: str, folders: Sequence[str]) -> str:
    """Return a name without the first of its folders that is one of these.

    "" if none is.
    """
    *parts, base = PurePosixPath(_composed(name)).parts
    at = next((at for at, part in enumerate(parts) if part.lower() in folders), None)
    return "" if at is None else "/".join([*parts[:at], *parts[at + 1 :], base])


def files_of(tree: Tree, name: str, beside: Beside) -> dict[str, str]:
    """Return {suffix: file} of the files that say something about a picture, of those that are read."""
    stem = str(PurePosixPath(name).with_suffix(""))
    files = {**beside.get(_composed(name), {}), **beside.get(_composed(stem), {})}
    return {suffix: file for suffix, file in files.items() if reads(suffix, tree.rules.captions)}


def described(media: Iterable[str], beside: Beside) -> set[str]:
    """Return the media with a caption or label beside them, whichever of these the settings have read."""
    owners = {owner for owner, files in beside.items() if any(map(carrier, files))}
    return {n for n in media if owners & {_composed(n), _composed(str(PurePosixPath(n).with_suffix("")))}}


def _composed(name: str) -> str:
    """Return a name in Unicode's NFC, since files that belong together may come from different systems."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def read_beside(tree: Tree, name: str, files: dict[str, str]) -> Annotation:
    """Read the files that say something about a picture; what is wrong with one refuses the sample."""
    contents = {}
    stem = _composed(str(PurePosixPath(name).with_suffix("")))
    for suffix, file_name in files.items():
        other = _composed(file_name)[: len(stem)]
        if other != stem and other.casefold() == stem.casefold():
            tree.findings.notes[OTHER_CASE] += 1
        try:
            with open(tree.source / file_name, "rb", opener=tree.opener(file_name)) as file:
                contents[suffix] = file.read(LONGEST_BYTES + 1)
        except OSError as error:
            return Annotation(refused=("caption", f"{file_name}: {error.strerror}"))
    return combined(contents, tree.rules.columns, tree.rules.captions, tree.rules.encoding)
