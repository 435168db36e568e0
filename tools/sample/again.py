"""The settings of an earlier job, of which one sample is made again."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.config.yaml_files import read_recorded
from core.errors import UserError
from core.files import sha256_file
from core.run.folder import CONFIG

if TYPE_CHECKING:
    from tools.runs.sample_files import FileRow

_ROW = re.compile(r"(.+)\[(\d+)\]")
# The row says what is made; where and how is up to the new job.
KEPT = ("source", "weights", "weak", "classifier", "text_encoder", "tiling", "sampler", "seed", "fps")


def settings_of(row: str) -> dict[str, Any]:
    """Return the settings of the job that made `FOLDER/samples.jsonl[N]`, and the row as its only request.

    UserError where there is no such job, or where the weights or files that the sample was made from have
    changed.
    """
    from core.checkpoint.exported import is_export
    from tools.runs.sample_files import rows_of  # only where it is asked for: NumPy is slow to import
    from tools.runs.samples import FILES, read_made_from

    found = _ROW.fullmatch(row)
    folder = Path(found[1]).parent if found else Path()
    made_from = read_made_from(folder) if found and Path(found[1]).name == FILES else None
    if found is None or made_from is None:
        raise UserError("again", row, f"FOLDER/{FILES}[N], row N of the list of a finished job, from 0")
    recorded, rows, number = read_recorded(folder / CONFIG), rows_of(folder / FILES), int(found[2])
    if number >= len(rows):
        raise UserError("again", row, f"a row from 0 to {len(rows) - 1}")
    made, source = rows[number], Path(recorded["source"])
    _require_same_weights(row, source, made_from)
    _require_same_inputs(row, made)
    files = {name: value for name, value in recorded["files"].items() if name != "name"}
    checkpoint = "" if is_export(source) else made_from["checkpoint"]
    kept = {name: recorded[name] for name in KEPT if name in recorded}
    kept["precision"] = made_from.get("precision", "fp32")
    kept["sampler"] = _with_its_grid(kept["sampler"], made_from, made)
    return {**kept, "checkpoint": checkpoint, "files": files, "requests": row}


def _require_same_weights(row: str, source: Path, made_from: dict[str, Any]) -> None:
    from tools.runs.loaded_run import manifest_hash, place_of

    place = place_of(source, made_from["checkpoint"])
    now, was = manifest_hash(place), made_from["manifest_sha256"]
    if now not in ("", was):
        raise UserError("again", row, f"{place} with manifest {was[:12]}, as then; now it is {now[:12]}")


def _require_same_inputs(row: str, made: FileRow) -> None:
    for path, was in made.get("inputs", {}).items():
        now = sha256_file(Path(path)) if Path(path).is_file() else "not there"
        if now != was:
            raise UserError("again", row, f"{path} with SHA-256 {was[:12]}, as then; now it is {now[:12]}")


def _with_its_grid(sampler: dict[str, Any], made_from: dict[str, Any], made: FileRow) -> dict[str, Any]:
    """Return a recorded sampler with the times of the file, where `auto` takes others today."""
    from core.diffusion.paths.config import PathRecord
    from core.diffusion.paths.kinds import make_path
    from core.diffusion.solvers.default_grids import best_grid, earlier_grid
    from tools.runs.path_record import SCHEDULE
    from tools.runs.samples import AUTO_GRID

    if sampler.get("grid", "auto") != "auto" or sampler.get("times"):
        return sampler
    latents, asked = made_from["latents"], {**sampler, **made["request"]}
    path = make_path(PathRecord.of(latents["path"], latents.get(SCHEDULE)))
    known = asked["solver"], asked["steps"], path, latents["prediction"]
    then = earlier_grid(*known) if "grid" in sampler else "even"
    best, recorded = best_grid(*known), made_from.get(AUTO_GRID)
    if recorded and best != then:  # recorded are those of all forms that were not the earlier ones
        then = best if best in (names := recorded.split(",")) else names[0]
    return sampler if then == best else {**sampler, "grid": then}
