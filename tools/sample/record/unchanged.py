"""Compare what a job's existing samples were made from with what it would use now, and name what differs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.config.loading import difference, with_defaults
from core.diffusion.paths.config import PathRecord
from core.diffusion.paths.kinds import make_path
from core.diffusion.sampling import SamplerConfig
from core.diffusion.solvers.default_grids import best_grid
from core.errors import UserError
from core.run.changes import Content, Contents, shown
from models.classifiers import classifier_folder
from models.denoisers.kinds import config_class
from tools.runs.loaded_run import manifest_hash, place_of
from tools.runs.path_record import SCHEDULE
from tools.runs.samples import AUTO_GRID, anew, read_made_from
from tools.sample.config import FilesConfig, WeakConfig
from tools.sample.given.config import PLAIN, TaskConfig
from tools.sample.record.describing import task_record

if TYPE_CHECKING:
    from tools.sample.requests.asked import Asked

# These are places; content is compared by its own hash.
NOT_COMPARED = ("format", "source", "manifest_sha256", "sha256")


def require_same(output: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise UserError naming the first thing in which the existing samples differ from those to come."""
    if now.get(AUTO_GRID) != before.get(AUTO_GRID):
        expected = "whose sampler.grid=auto was another one for this solver"
        raise UserError(f"{output} was begun by an earlier version, {expected}; {anew(output)}")
    names = [name for name in {**before, **now} if name not in NOT_COMPARED]
    then = {name: before.get(name) for name in names}
    schemas: dict[str, type] = {"network": config_class(then["network"] or {}), "sampler": SamplerConfig}
    if then.get("files"):
        schemas["files"] = FilesConfig
    then["sampler"] = _as_it_was(then["sampler"] or {}, then["latents"])
    if isinstance(then["latents"], Mapping):
        then["latents"] = {SCHEDULE: _path(then["latents"]).parameters(), **then["latents"]}
    # A field that an earlier version did not have was, in effect, what its default is today.
    then |= {name: with_defaults(then[name] or {}, schema) for name, schema in schemas.items()}
    if differs := difference(then, {name: now.get(name) for name in names}):
        field, was, found = _first(*differs[0])
        raise UserError(f"{output} was begun with {field}={was}; now it is {found}; {anew(output)}")


def _as_it_was(sampler: Mapping[str, Any], latents: Any) -> Mapping[str, Any]:
    """Return a recorded sampler with the grid of times that earlier versions took, where it was another."""
    if "grid" in sampler or not isinstance(latents, Mapping) or "solver" not in sampler:
        return sampler
    now = best_grid(
        sampler["solver"], sampler.get("steps", 50), make_path(_path(latents)), latents["prediction"]
    )
    return sampler if now == "even" else {**sampler, "grid": "even"}


def _path(latents: Mapping[str, Any]) -> PathRecord:
    return PathRecord.of(latents["path"], latents.get(SCHEDULE))


def require_unchanged(
    source: Path, output: Path, asked: Asked, task: TaskConfig, record: Mapping[str, Any], classifier: str
) -> None:
    """Raise UserError if a finished job's prompts, files, checkpoint, export or classifier are others now.

    Only manifests are read, which hold the hashes of the weights; what is gone is not missed.
    """
    given: dict[str, Any] = {} if task.is_plain else {"task": task_record(task, asked)}
    if (Path(classifier) / classifier_folder.RECORD).is_file():
        given["classifier"] = classifier_folder.read(Path(classifier)).record
    require_same(output, record, {**record, **_now(asked), **given})
    folder = place_of(source, record["checkpoint"])
    if (found := manifest_hash(folder)) not in ("", record["manifest_sha256"]):
        was = record["manifest_sha256"][:12]
        raise UserError(
            f"{output} was made from {folder} with manifest {was}; now it is {found[:12]}; {anew(output)}"
        )


def _now(asked: Asked) -> dict[str, Any]:
    """Return prompts or requests as they are recorded."""
    return {"requests": asked.hashes} if asked.requests else {"prompts": list(asked.texts)}


def contents(
    source: Path,
    output: Path,
    weak: WeakConfig,
    asked: Asked,
    task: TaskConfig = PLAIN,
    classifier: str = "",
) -> Contents:
    """Return the places of `sample`, as recorded and as found: manifest of checkpoint or export, prompts,
    requests.

    A text encoder is compared with the one that the run names, whenever prompts are embedded.
    """

    def of_place(path: str) -> tuple[Content | None, Content]:
        record = read_made_from(output)
        if path == "text_encoder" or record is None:
            return (None if record is None else {}), {}
        if path == "weak.source":
            was = record.get("weak") or {}
            folder = place_of(Path(weak.source), was.get("checkpoint", ""))
            return {"manifest": was.get("manifest_sha256")}, {"manifest": manifest_hash(folder)}
        if path == "classifier":
            found = classifier_folder.read(Path(classifier)).record if classifier else {}
            return record.get("classifier") or {}, found
        if path.startswith("task."):
            name = path.removeprefix("task.")
            was, place = (record.get("task") or {}).get("files") or {}, task.places.get(name, "")
            return {"sha256": was.get(name)}, {"sha256": asked.files.get(place)}
        if path in ("prompt_file", "requests", "again"):
            now = _now(asked)
            return {name: record.get(name) for name in now}, now
        folder = place_of(source, record["checkpoint"])
        return {"manifest": record["manifest_sha256"]}, {"manifest": manifest_hash(folder)}

    return of_place


def _first(field: str, was: Any, found: Any) -> tuple[str, Any, Any]:
    """Return the first entries in which two lists differ, with their number; hashes shortened."""
    if isinstance(was, list) and isinstance(found, list):
        length = max(len(was), len(found))
        padded = [[*values, *[None] * (length - len(values))] for values in (was, found)]
        number = next(i for i, (a, b) in enumerate(zip(*padded, strict=True)) if a != b)
        return f"{field}[{number}]", repr(padded[0][number]), repr(padded[1][number])
    return field, shown(was), shown(found)
