"""The root of this code: the folder with its top-level packages, and the path by which it is imported."""

from __future__ import annotations

import os
from pathlib import Path

import core

ROOT = Path(core.__file__).resolve().parent.parent


def import_path() -> str:
    """Return a PYTHONPATH by which a process imports this code before any other, wherever it is started."""
    return os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
