"""The file that a row of a table names: beside the table, in words that say why where it is not there."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path, PureWindowsPath

from data.raw.annotation import Annotation
from data.raw.item import Item
from data.raw.layouts.tree import BESIDE, Tree, file_item

BACKSLASHES = "path with \\, read as /"
OUTSIDE = "file of a table outside of the table's folder"


def located(tree: Tree, table: Path, annotation: Annotation) -> tuple[Item, str]:
    """The sample of a row with a path, and the file's name relative to the source ("" if it lies outside)."""
    text = annotation.path
    path = table.parent / text
    if not _exists(path):
        path, reason = _another(tree, table.parent, text)
        if reason:
            annotation = replace(annotation, refused=annotation.refused or ("read", reason))
    inside = _relative(path, table.parent)
    relative = _relative(path, tree.source)
    if not inside:
        tree.findings.notes[OUTSIDE] += 1
        if not relative and not tree.given and tree.rules.links == "inside":
            reason = "lies outside of the source; links=follow reads it"
            annotation = replace(annotation, refused=annotation.refused or ("read", reason))
    shown = relative or (path.name if os.path.isabs(text) else text)
    return file_item(path, shown, annotation), relative


def _another(tree: Tree, folder: Path, text: str) -> tuple[Path, str]:
    """Where else the file may be, and why it is not there if that is more than that it does not exist."""
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", text):
        return folder / text, "a URL; fetch it first (img2dataset, video2dataset), then name the file"
    if text.startswith("~"):
        return (
            folder / text,
            "'~' is not expanded in tables; write the path in full, or relative to the table",
        )
    if "\\" in text:
        if PureWindowsPath(text).drive:
            return (
                folder / text,
                "a path on a Windows drive, which does not exist here; write it relative to the table",
            )
        forward = text.replace("\\", "/")
        found = next((path for path in _beside(folder, forward) if _exists(path)), None)
        if found:
            tree.findings.notes[BACKSLASHES] += 1
            return found, ""
    found = next((path for path in _beside(folder, text) if _exists(path)), None)
    return found or folder / text, ""


def _beside(folder: Path, text: str) -> list[Path]:
    return [folder / text, *(folder / name / text for name in BESIDE)]


def _exists(path: Path) -> bool:
    return "\0" not in str(path) and os.path.lexists(path)


def _relative(path: Path, folder: Path) -> str:
    """The name below a folder, "" for what lies outside of it."""
    whole = os.path.normpath(path)
    base = os.path.normpath(folder)
    if whole.startswith(base + os.sep) or base == ".":
        name = os.path.relpath(whole, base)
        return "" if name.startswith("..") else name.replace(os.sep, "/")
    return ""
