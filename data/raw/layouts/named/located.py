"""Locate the file that a row of a table names, or say why it is not there."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path, PureWindowsPath
from urllib.parse import unquote

from data.media.formats import MEDIA_SUFFIXES
from data.raw.annotations.annotation import Annotation
from data.raw.item import Item, printable
from data.raw.layouts.named.alike import OTHERWISE
from data.raw.layouts.tree import BESIDE, Tree, file_item
from data.raw.opening import LEAVES, is_within
from data.raw.tables.delimited import is_single_quoted

LONGEST_PATH = 4096  # Linux's PATH_MAX
LONGEST_BASE = 300  # characters; names of files have at most 255
BASE64 = ("/9j/", "iVBORw0KGgo", "R0lGOD", "UklGR")  # JPEG, PNG, GIF and WebP
_NUMBERED = re.compile(r"(\.\w+)#\d+\Z")  # of Flickr8k and 30k, which number the captions of a picture
BACKSLASHES = "path with \\, read as /"
_SUFFIXES = (*MEDIA_SUFFIXES, *(suffix.upper() for suffix in MEDIA_SUFFIXES))
ELSEWHERE = "is not there, and lies outside of the source; write it relative to the table"
OUTSIDE = "file of a table outside of the table's folder"


def located(tree: Tree, table: Path, annotation: Annotation) -> tuple[Item, str]:
    """Return the sample of a row with a path, and the file's name in the source ("" if it lies outside)."""
    if reason := _no_path(annotation.path):
        annotation = replace(annotation, refused=annotation.refused or ("read", reason))
        return file_item(table, printable(annotation.path[:40]), annotation, ""), ""
    folder = str(table.parent)
    text = _local(annotation.path, folder, str(tree.source))
    path = os.path.join(folder, text)
    if not _exists(path):
        path, reason = _elsewhere(tree, folder, text)
        if reason:
            annotation = replace(annotation, refused=annotation.refused or ("read", reason))
    relative = _relative(path, str(tree.source))
    if not _relative(path, folder):
        tree.findings.notes[OUTSIDE] += 1
        if not relative and not tree.given and tree.rules.links == "inside":
            reason = "lies outside of the source; links=follow reads it" if _exists(path) else ELSEWHERE
            annotation = replace(annotation, refused=annotation.refused or ("read", reason))
    within = tree.within() if relative else ""
    if _exists(path) and not is_within(path, within):
        annotation = replace(annotation, refused=annotation.refused or ("read", LEAVES))
    shown = relative or (os.path.basename(text) if os.path.isabs(text) else text)
    return file_item(Path(path), shown, annotation, within), relative


def place_of(tree: Tree, table: Path, text: str) -> str:
    """Return the file of the source that a path in an unread column names, "" for none."""
    folder = str(table.parent)
    forward = _local(text, folder, str(tree.source)).replace("\\", "/")
    for beside in _beside(folder, forward):
        if (name := _relative(beside, str(tree.source))) in tree.left:
            return name
    found = _alike(tree, folder, forward)
    return found[0] if len(found) == 1 else ""


def _no_path(text: str) -> str:
    """Say why a text can be no path, "" where it can be one."""
    long = len(text) > LONGEST_BASE or text.startswith(BASE64)
    if text.startswith("data:") or (long and len(text) > 40 and re.fullmatch(r"[A-Za-z0-9+/=_\s-]+", text)):
        return "the picture as base64, which is not read; write files, or Parquet with a column of bytes"
    if text.startswith("{") and "'path'" in text:
        return "an object of Python as text; dataset.to_parquet writes pictures that can be read"
    return f"longer than {LONGEST_PATH} characters, and no path" if len(text) > LONGEST_PATH else ""


def _local(text: str, folder: str, source: str) -> str:
    """Return the path in a `file:` URL; an absolute one in a relative source is relative."""
    if text.startswith("file://"):
        text = unquote(text.removeprefix("file://").removeprefix("localhost"))
    if not os.path.isabs(text) or os.path.isabs(source):
        return text
    is_within = text.startswith(os.path.abspath(source).rstrip("/") + "/")
    return os.path.relpath(text, folder) if is_within else text


def _elsewhere(tree: Tree, folder: str, text: str) -> tuple[str, str]:
    """Say where else the file may be, and why it is missing if it is not just that it does not exist."""
    path = os.path.join(folder, text)
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", text):
        return path, "a URL; fetch it first (img2dataset, video2dataset), then name the file"
    if text.startswith("~"):
        return path, "'~' is not expanded in tables; write the whole path, or one relative to the table"
    if is_single_quoted(text):
        return path, "in single quotes, which belong to the name; CSV quotes with double ones"
    text = _NUMBERED.sub(r"\1", text)
    forward = text.replace("\\", "/")
    places = _beside(folder, forward)
    found = next(filter(_exists, places), "")
    if found and forward != text:
        tree.findings.notes[BACKSLASHES] += 1
    if found:
        return found, ""
    if PureWindowsPath(text).drive:
        return path, "a path on a Windows drive, which is not here; write it relative to the table"
    others = [os.path.join(folder, name) for name in _written_otherwise(folder, forward)]
    if tree.given and not forward.lower().endswith(MEDIA_SUFFIXES):
        others += [f"{place}{suffix}" for place in places for suffix in _SUFFIXES]
    if found := next(filter(_exists, others), ""):
        tree.findings.notes[OTHERWISE] += 1
        return found, ""
    return _called_alike(tree, folder, path, forward)


def _beside(folder: str, text: str) -> list[str]:
    """Return where a file may lie that a table in `folder` names: beside the table, or in a folder there."""
    return [os.path.join(folder, name) for name in (text, *(f"{name}/{text}" for name in BESIDE))]


def _written_otherwise(folder: str, text: str) -> Iterator[str]:
    """Yield what a path may mean: without spaces around it, encoded as in URLs, from a folder further up."""
    yield text.strip()
    if "%" in text:
        yield unquote(text)
    parts, above = text.split("/"), os.path.abspath(folder).split("/")
    for count in range(1, len(parts)):
        if parts[:count] == above[-count:]:
            yield "/".join(parts[count:])


def _called_alike(tree: Tree, folder: str, path: str, text: str) -> tuple[str, str]:
    """Say which file of the source is called alike, and why none is taken if several are."""
    names = _alike(tree, folder, text)
    if len(names) == 1:
        tree.findings.notes[OTHERWISE] += 1
        return os.path.join(tree.source, names[0]), ""
    several = f"not there, and {len(names)} files are called so: {', '.join(map(printable, names[:3]))}"
    return path, several if names else ""


def _alike(tree: Tree, folder: str, text: str) -> list[str]:
    """Return the files of the source that are called as a path says: those below the table, else all."""
    if tree.given or os.path.isabs(text) or ".." in text.split("/"):
        return []
    wanted = text.removeprefix("./")
    return tree.alike.find(_relative(folder, str(tree.source)), wanted) or tree.alike.find("", wanted)


def _exists(path: str) -> bool:
    return "\0" not in path and os.path.lexists(path)


def _relative(path: str, folder: str) -> str:
    """Return the name relative to a folder, "" for a path outside it."""
    whole, base = os.path.normpath(path), os.path.normpath(folder)
    if base == ".":
        return "" if os.path.isabs(whole) or whole.startswith("..") else whole
    return whole[len(base) :].lstrip("/") if whole.startswith(base.rstrip("/") + "/") else ""
