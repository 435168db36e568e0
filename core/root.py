"""Where this code lies: the folder with its top-level packages, and how another Python comes to import it."""

from __future__ import annotations

import os
from pathlib import Path

import core

ROOT = Path(core.__file__).resolve().parent.parent


def import_path() -> str:
    """Return a PYTHONPATH by which a process imports this code before any other, wherever it is started."""
    return os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
