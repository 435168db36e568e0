"""The settings of an earlier job, of which one sample is made again."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from core.config.yaml_files import read_recorded
from core.errors import UserError
from core.run.folder import CONFIG

_ROW = re.compile(r"(.+)\[\d+\]")
# What is made is in the row; where and how it is carried out is said anew.
KEPT = ("source", "weights", "weak", "classifier", "text_encoder", "tiling", "sampler", "seed", "fps")


def settings_of(row: str) -> dict[str, Any]:
    """Return the settings of the job that made `FOLDER/samples.jsonl[N]`, and the row as its only request.

    UserError where there is no such job.
    """
    from core.checkpoint.exported import is_export
    from tools.runs.samples import (  # only where it is asked for: NumPy is slow to import
        FILES,
        read_made_from,
    )

    found = _ROW.fullmatch(row)
    folder = Path(found[1]).parent if found else Path()
    made_from = read_made_from(folder) if found and Path(found[1]).name == FILES else None
    if made_from is None:
        raise UserError("again", row, f"FOLDER/{FILES}[N], row N of the list of a finished job, from 0")
    recorded = read_recorded(folder / CONFIG)
    files = {name: value for name, value in recorded["files"].items() if name != "name"}
    checkpoint = "" if is_export(Path(recorded["source"])) else made_from["checkpoint"]
    kept = {name: recorded[name] for name in KEPT if name in recorded}
    kept["precision"] = made_from.get("precision", "fp32")
    return {**kept, "checkpoint": checkpoint, "files": files, "requests": row}
