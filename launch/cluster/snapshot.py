"""A copy of the code for a job, so that a job in the queue, or started again, runs what was submitted."""

from __future__ import annotations

import shutil
from pathlib import Path

from core.files import write_json
from core.root import ROOT
from core.run.code import PACKAGES, RECORD, code

_LEFT_OUT = shutil.ignore_patterns("__pycache__", "*.pyc")


def copy_code(target: Path) -> None:
    """Copy our packages to `target`, a new folder, and note which commit they are of."""
    for package in PACKAGES:
        shutil.copytree(ROOT / package, target / package, ignore=_LEFT_OUT)
    write_json(target / RECORD, code().as_dict())
