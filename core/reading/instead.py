"""Say what lies where a folder was expected, to complete a refusal."""

from __future__ import annotations

import re
from pathlib import Path

from core.files import published


def instead(path: Path) -> str:
    """Return an addition to an error about a folder: nothing, a file or an empty folder is there; else ''."""
    if not path.is_dir():
        return "; this is a file" if path.exists() else f"; nothing is there{_hint(path)}"
    return "" if published(path) else "; this folder is empty"


def _hint(path: Path) -> str:
    """Say how to get the folder where `path` looks like a URL, or a name on the Hugging Face hub
    (`owner/model`).
    """
    name = str(path)
    if re.match(r"[a-z][a-z0-9+.-]+:/", name):
        return ", and nothing is downloaded: bring the files into a folder"
    if not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", name) or path.parent.is_dir():
        return ""
    return f", and nothing is downloaded: `hf download {name} --local-dir FOLDER` makes a folder to give"
