"""Where this code lies, the path by which it is imported, and the cache folder of its runs."""

from __future__ import annotations

import os
from pathlib import Path

import core
from core.errors import UserError

ROOT = Path(core.__file__).resolve().parent.parent


def import_path() -> str:
    """Return a PYTHONPATH by which a process imports this code before any other, wherever it is started."""
    return os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))


def cache_folder() -> Path:
    """Return the cache folder of this user's runs: LONGTAKE_CACHE, else `longtake` in the cache folder."""
    if named := os.environ.get("LONGTAKE_CACHE"):
        return Path(named)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "longtake"
    except RuntimeError:  # a user id without an entry, as in containers
        raise UserError("LONGTAKE_CACHE", "''", "a folder, since this user has no home folder") from None
