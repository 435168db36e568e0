"""Record what samples are made from, by content: written when a job begins, kept when it continues."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from core.checkpoint import exported
from core.checkpoint.weights import choose
from core.config.loading import to_dict
from core.diffusion.paths.kinds import make_path
from core.diffusion.paths.path import Path as DiffusionPath
from core.diffusion.predictions import Prediction
from core.diffusion.solvers.default_grids import best_grid, earlier_grid
from core.errors import UserError
from core.files import sealed, write_json_once
from core.progress import say
from core.reading import json_files
from core.run.folder import CHECKPOINTS
from models.autoencoder.tiling_config import TilingConfig
from models.precision import AskedPrecision, Precision, settle_precision
from tools.runs.path_record import SCHEDULE
from tools.runs.samples import AUTO_GRID, MADE_FROM, MADE_FROM_VERSION, anew, read_made_from
from tools.runs.space_record import space_file
from tools.sample.conditions import turns_of
from tools.sample.config import NEGATIVE, WeakConfig
from tools.sample.files.kinds import ALL_IN_ONE
from tools.sample.given.config import TaskConfig

if TYPE_CHECKING:
    from tools.runs.loaded_run import LoadedRun
    from tools.sample.requests.asked import Asked, SampleSettings
    from tools.sample.requests.schedule import Schedule

PRECISION = "precision"  # in made_from.json, where it is not fp32


@dataclass(frozen=True, kw_only=True)
class Making:
    """Settings of `sample` by which samples are made, by the same names; see `tools.sample.config`."""

    source: str
    output: str
    checkpoint: str
    weights: str
    weak: WeakConfig
    classifier: str
    text_encoder: str
    precision: AskedPrecision
    compile: bool | Literal["auto"]
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

    A finished job recognises the checkpoint or export by the hash of its manifest (`manifest_sha256`).
    shapes: (C, T, H, W) of the latents of each form.  guiding: what `Guiding.record` says.
    """
    space = trained.space
    turns = turns_of(settings.classes, asked.texts, space)
    grids = _new_grids(schedule, make_path(space.path), space.prediction)
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
        **({PRECISION: making.precision} if making.precision != "fp32" else {}),
        **({AUTO_GRID: grids} if grids else {}),
        **guiding,
    }
    return sealed(json_files.plain(record))  # as JSON gives it back: tuples are lists


def _new_grids(schedule: Schedule, path: DiffusionPath, prediction: Prediction) -> str:
    """Return the grids that solvers choose where earlier versions took others; "" for none."""
    samplers = [form.sampler for form in schedule.forms]
    left = [each for each in samplers if each.grid == "auto" and not each.times]
    known = [(each.solver, each.steps, path, prediction) for each in left]
    return ",".join(sorted({best_grid(*each) for each in known if best_grid(*each) != earlier_grid(*each)}))


def _further(settings: SampleSettings, asked: Asked) -> dict[str, Any]:
    """Return what jobs of earlier versions could not say, where it is not what they did."""
    found: dict[str, Any] = {}
    if settings.files.kind != ALL_IN_ONE:
        found |= {"files": to_dict(settings.files), "fps": settings.fps}
    if asked.requests:
        found |= {"requests": asked.hashes, "each": settings.each, "preset": settings.preset}
    if not settings.task.is_plain:
        found["task"] = task_record(settings.task, asked)
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
        say(f"{making.output} continues with {begun}, with which it was begun; the newest is now {newest}")
    return begun


def begin(output: Path, now: Mapping[str, Any]) -> dict[str, Any]:
    """Note what this job is made from; return the note, that of the first where workers begin at once."""
    write_json_once(output / MADE_FROM, now)
    record = read_made_from(output)
    assert record is not None
    return record


def task_record(task: TaskConfig, asked: Asked) -> dict[str, Any]:
    """Return what samples are made from beside noise, files by their hashes."""
    files = {name: asked.files[path] for name, path in task.places.items()}
    return {**{name: value for name, value in task.stated().items() if name not in files}, "files": files}
