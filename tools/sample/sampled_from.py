"""Record what the samples of a job are made from: fixed by content when it begins, kept when it continues."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from core.checkpoint import exported
from core.checkpoint.weights import choose
from core.config.loading import difference, to_dict, with_defaults
from core.diffusion.paths.config import PathRecord
from core.diffusion.paths.kinds import make_path
from core.diffusion.paths.path import Path as DiffusionPath
from core.diffusion.sampling import SamplerConfig, best_grid
from core.errors import UserError
from core.files import sealed, write_json_once
from core.progress import say
from core.reading import json_files
from core.run.changes import Content, Contents
from core.run.folder import CHECKPOINTS
from models.autoencoder.tiling_config import TilingConfig
from models.classifiers import classifier_folder
from models.denoisers.kinds import config_class
from models.precision import AskedPrecision, Precision, settle_precision
from tools.runs.loaded_run import manifest_hash
from tools.runs.path_record import SCHEDULE
from tools.runs.samples import AUTO_GRID, MADE_FROM, MADE_FROM_VERSION, anew, read_made_from
from tools.runs.space_record import space_file
from tools.sample.conditions import turns_of
from tools.sample.config import NEGATIVE, FilesConfig, WeakConfig
from tools.sample.files.kinds import ALL_IN_ONE
from tools.sample.given.config import PLAIN, TaskConfig

if TYPE_CHECKING:
    from tools.runs.loaded_run import LoadedRun
    from tools.sample.requests.asked import Asked, SampleSettings
    from tools.sample.requests.schedule import Schedule

PRECISION = "precision"  # in made_from.json, where it is not fp32
# They say where content lay; what depends on it is compared by its own hash.
NOT_COMPARED = ("format", "source", "manifest_sha256", "sha256")


@dataclass(frozen=True, kw_only=True)
class Making:
    """Settings of `sample` by which samples are made, by the same names; see `tools.sample.config`."""

    source: str
    output: str
    checkpoint: str
    weights: Literal["ema", "raw"]
    weak: WeakConfig
    classifier: str
    text_encoder: str
    precision: AskedPrecision
    batch: int
    tiling: TilingConfig


def describe(
    settings: SampleSettings,
    making: Making,
    asked: Asked,
    trained: LoadedRun,
    schedule: Schedule,
    shapes: Sequence[tuple[int, int, int, int]],
    guiding: Mapping[str, Any],
) -> dict[str, Any]:
    """Describe all that the samples of a job depend on, sealed, as plain JSON values.

    manifest_sha256: of the checkpoint's or export's manifest, by which a finished job knows it again.
    shapes: (C, T, H, W) of the latents of each form.  guiding: what `Guiding.record` says.
    """
    space = trained.space
    turns = turns_of(settings.classes, asked.texts, space)
    record = {
        "format": MADE_FROM_VERSION,
        "source": making.source,
        "checkpoint": trained.checkpoint,
        "weights": trained.weights,
        "weights_sha256": trained.weights_sha256,
        "manifest_sha256": trained.manifest_sha256,
        "network": to_dict(trained.network),
        "autoencoder": space.encoder,
        "tiling": to_dict(making.tiling),
        "latents": {
            **space.normaliser.as_dict(),
            "path": space.path.name,
            SCHEDULE: space.path.parameters(),
            "prediction": space.prediction,
            "learned_sigma": space.learned_sigma,
        },
        "classes": list(space.classes),
        "labels": [] if asked.requests else turns,
        "prompts": list(asked.texts),
        "text_encoder": space.text if schedule.texts else None,
        "sampler": to_dict(settings.sampler),
        "seed": settings.seed,
        "frames": settings.frames,
        "shape": list(shapes[0]) if len(shapes) == 1 else [list(shape) for shape in shapes],
        **_further(settings, asked),
        **({} if making.precision == "fp32" else {PRECISION: making.precision}),
        **({AUTO_GRID: "optimised"} if _is_optimised(schedule, make_path(space.path)) else {}),
        **guiding,
    }
    return sealed(json_files.plain(record))  # as JSON gives it back: tuples are lists


def _is_optimised(schedule: Schedule, path: DiffusionPath) -> bool:
    """Return whether a sampler's grid is left to its solver, and that is one that earlier versions lacked."""
    samplers = [form.sampler for form in schedule.forms]
    left = [each for each in samplers if each.grid == "auto" and not each.times]
    return any(best_grid(each.solver, each.steps, path) == "optimised" for each in left)


def _further(settings: SampleSettings, asked: Asked) -> dict[str, Any]:
    """Return what jobs of earlier versions could not say, where it is not what they did."""
    found: dict[str, Any] = {}
    if settings.files.kind != ALL_IN_ONE:
        found |= {"files": to_dict(settings.files), "fps": settings.fps}
    if asked.requests:
        found |= {"requests": asked.hashes, "each": settings.each, "preset": settings.preset}
    if not settings.task.is_plain:
        found["task"] = _of_task(settings.task, asked)
    if settings.trajectory:
        found["trajectory"] = True
    if settings.labels != "equal":
        found["labels_are"] = settings.labels
    found |= {name: value for name in NEGATIVE if (value := getattr(settings, name))}
    return found


def precision_of(making: Making, record: Mapping[str, Any] | None, device_type: str) -> Precision:
    """Return in which precision a job computes: while it continues, what it was begun with.

    Jobs of earlier versions computed in fp32, and say nothing of it.
    """
    if making.precision == "auto" and record is not None:
        begun: Precision = record.get(PRECISION, "fp32")
        return begun
    return settle_precision(making.precision, device_type, "bf16")


def checkpoint_of(making: Making, record: Mapping[str, Any] | None) -> str:
    """Return the name of a job's checkpoint, "" for an export: the recorded one while the job continues.

    UserError where the run no longer holds that one, or `checkpoint` names another.
    """
    source = Path(making.source)
    space_file(source)
    if record is None or exported.is_export(source):
        chosen = choose(source, making.checkpoint)
        return "" if chosen == source else chosen.name
    begun = record["checkpoint"]
    if making.checkpoint not in ("", begun):
        raise UserError("checkpoint", making.checkpoint, f"{begun}, with which {making.output} was begun")
    if making.checkpoint:
        return choose(source, begun).name
    newest = choose(source, "").name
    try:
        choose(source, begun)
    except UserError:
        expected = (
            f"{begun}, with which {making.output} was begun, and {source / CHECKPOINTS} no longer holds it"
        )
        raise UserError("checkpoint", newest, f"{expected}; {anew(Path(making.output))}") from None
    if newest != begun:
        say(f"{making.output} goes on with {begun}, with which it was begun; the newest is {newest} now")
    return begun


def begin(output: Path, now: Mapping[str, Any]) -> dict[str, Any]:
    """Note what this job is made from; return the note, that of the first where workers begin at once."""
    write_json_once(output / MADE_FROM, now)
    record = read_made_from(output)
    assert record is not None
    return record


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
    now = best_grid(sampler["solver"], sampler.get("steps", 50), make_path(_path(latents)))
    return sampler if now == "even" else {**sampler, "grid": "even"}


def _path(latents: Mapping[str, Any]) -> PathRecord:
    return PathRecord.of(latents["path"], latents.get(SCHEDULE))


def _of_task(task: TaskConfig, asked: Asked) -> dict[str, Any]:
    """Return what samples are made from beside noise, files by their hashes."""
    files = {name: asked.files[path] for name, path in task.places.items()}
    return {**{name: value for name, value in task.stated().items() if name not in files}, "files": files}


def require_unchanged(
    source: Path, output: Path, asked: Asked, task: TaskConfig, record: Mapping[str, Any], classifier: str
) -> None:
    """Raise UserError if a finished job's prompts, files, checkpoint, export or classifier are others now.

    Only manifests are read, which hold the hashes of the weights; what is gone is not missed.
    """
    given: dict[str, Any] = {} if task.is_plain else {"task": _of_task(task, asked)}
    if (Path(classifier) / classifier_folder.RECORD).is_file():
        given["classifier"] = classifier_folder.read(Path(classifier)).record
    require_same(output, record, {**record, **_now(asked), **given})
    folder = source if exported.is_export(source) else source / CHECKPOINTS / record["checkpoint"]
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
            was, folder = record.get("weak") or {}, Path(weak.source)
            if not exported.is_export(folder):
                folder = folder / CHECKPOINTS / was.get("checkpoint", "")
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
        folder = source if exported.is_export(source) else source / CHECKPOINTS / record["checkpoint"]
        return {"manifest": record["manifest_sha256"]}, {"manifest": manifest_hash(folder)}

    return of_place


def _first(field: str, was: Any, found: Any) -> tuple[str, Any, Any]:
    """Return the first entries in which two lists differ, with their number; hashes shortened."""
    if isinstance(was, list) and isinstance(found, list):
        length = max(len(was), len(found))
        padded = [[*values, *[None] * (length - len(values))] for values in (was, found)]
        number = next(i for i, (a, b) in enumerate(zip(*padded, strict=True)) if a != b)
        return f"{field}[{number}]", repr(padded[0][number]), repr(padded[1][number])
    return field, was, found
