"""The weights that a new run begins from, as `initial=` names them.

`tools.runs.begun` loads them.

A run that has a checkpoint continues with that one and asks nothing of this. One that was stopped before its
first checkpoint reads the same weights again, which the record knows by their hash.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypedDict

from torch import Tensor

from core import environment
from core.checkpoint import exported, format
from core.checkpoint.reader import CheckpointReader
from core.checkpoint.store import CheckpointStore
from core.checkpoint.weights import LoadedWeights, Stored, open_stored
from core.config.loading import to_dict
from core.config.yaml_files import read_recorded
from core.engine.network import MAIN
from core.errors import UserError, WorkError
from core.reading import json_files
from core.reading.instead import instead
from core.run.claim import INITIAL_FIELD as FIELD
from core.run.claim import JobConfig, job_of
from core.run.folder import CHECKPOINTS, CONFIG, INITIAL
from models.autoencoder import store

AVERAGE = "@"  # between the place and the name of the weights


class Beginner(JobConfig, Protocol):
    """The config of a job whose runs can begin from weights."""

    @property
    def output(self) -> str: ...
    @property
    def initial(self) -> str: ...


@dataclass(frozen=True)
class Initial:
    """Weights to begin from, found but not read.

    text: the value of the field.  run: the run or export with the config of these weights.  chosen: the
    checkpoint, the export, or the folder of an autoencoder.  weights: "ema", "raw" or the name of an average.
    average: the name of the average that they are, None for those of the step itself.  step: None where
    nobody says.  recorded: the config of that run.
    """

    text: str
    run: Path
    chosen: Path
    weights: str
    average: str | None
    step: int | None
    recorded: Mapping[str, Any]

    @property
    def network(self) -> Mapping[str, Any]:
        """The recorded configuration of the network; WorkError where there is none."""
        section = self.recorded.get("model")
        if not isinstance(section, Mapping):
            raise WorkError(f"{self.run / CONFIG} is damaged: it has no section `model`")
        return section

    @property
    def origin(self) -> str:
        """The description of these weights for a person."""
        what = "the weights" if self.average is None else f"the average {self.average}"
        step = "" if self.step is None else f" of step {self.step}"
        return f"{what}{step} in {self.chosen}"

    def load(self) -> dict[str, Tensor]:
        """Load the whole weights, each file verified; WorkError on damage."""
        return dict(self.open())

    def open(self, *, is_verified: bool = False) -> Stored:
        """Open the weights, each file verified unless another rank has done so; WorkError on damage."""
        if (self.chosen / store.CONFIG).is_file():
            return LoadedWeights(store.load(self.chosen).state_dict())
        return open_stored(self.chosen, self.weights, MAIN, is_verified=is_verified)


def initial_of(config: Beginner, *, claimed: bool) -> Initial | None:
    """Return what a run begins from.

    None for one that begins at random, or continues with a checkpoint of its own.

    claimed: whether the folder is this run's already; before, an older one's that is to be overwritten may
    lie there. Errors as `find_initial`.
    """
    output, anew = Path(config.output), config.overwrite and not claimed and not environment.restarts()
    if not config.initial or (has_checkpoint(output) and not anew):
        return None
    return find_initial(config.initial, config.job, output, anew=anew)


def find_initial(text: str, job: str, output: Path, *, anew: bool = False) -> Initial:
    """Find what `initial=` names, for a run of `job`.

    For a run it is the checkpoint that `output` records, and the newest for an output that records none.
    anew: whether `output` will be begun anew, so that its record does not count. UserError where there are no
    such weights, or where `output` would take their place.
    """
    place, weights = _parse(text)
    if not place.exists():
        raise UserError(FIELD, text, f"a run, one of its checkpoints, or an export{instead(place)}")
    if output.exists() and place.resolve().is_relative_to(output.resolve()):
        raise UserError(FIELD, text, f"a place outside {output}, which this run writes")
    if job == "train-autoencoder" and (place / store.CONFIG).is_file():
        return _of_autoencoder(text, place, weights)
    run, chosen = _locate(text, place, None if anew else read_record(output))
    _require_job(text, run, job)
    recorded = read_recorded(run / CONFIG)
    if exported.is_export(chosen):
        return _of_export(text, run, weights, recorded)
    return _of_checkpoint(text, run, chosen, weights, recorded)


def _parse(text: str) -> tuple[Path, str]:
    """Split `PLACE[@WEIGHTS]` into place and weights.

    An existing place whose name has such a sign is taken whole.
    """
    place, sign, weights = text.rpartition(AVERAGE)
    if not sign or Path(text).exists():
        return Path(text), ""
    if not weights or not place:
        raise UserError(FIELD, text, f"PLACE, or PLACE{AVERAGE}AVERAGE")
    return Path(place), weights


def _locate(text: str, place: Path, record: Mapping[str, Any] | None) -> tuple[Path, Path]:
    """Return the run or export, and the checkpoint or export, that a place stands for."""
    if exported.is_export(place):
        return place, place
    if format.step_of(place) is not None or (place / format.MANIFEST).is_file():
        run = place.resolve().parent.parent
        if not (place / format.MANIFEST).is_file():
            raise UserError(FIELD, text, f"a complete checkpoint; this one has no {format.MANIFEST}")
        if job_of(run) is None:
            raise UserError(FIELD, text, f"a checkpoint within its run, whose {CONFIG} says what it is of")
        return run, place
    if place.name == CHECKPOINTS and job_of(place.resolve().parent) is not None:
        place = place.resolve().parent
    if job_of(place) is None:
        what = "; this is an autoencoder, and no run" if (place / store.CONFIG).is_file() else instead(place)
        raise UserError(FIELD, text, f"a run, one of its checkpoints, or an export{what}")
    checkpoints = CheckpointStore(place / CHECKPOINTS)
    if record is not None and record["checkpoint"]:
        kept = checkpoints.folder / record["checkpoint"]
        if (kept / format.MANIFEST).is_file():
            return place, kept
        if record.get(FIELD) == text:
            expected = f"a run that still holds {record['checkpoint']}, from which this run was begun"
            raise UserError(FIELD, text, expected)
    if (newest := checkpoints.latest()) is None:
        raise UserError(FIELD, text, "a run that has saved a checkpoint")
    return place, newest


def _require_job(text: str, run: Path, job: str) -> None:
    if (found := job_of(run)) != job:
        raise UserError(FIELD, text, f"a run of {job}; {run} is one of {found}")


def _of_checkpoint(text: str, run: Path, chosen: Path, weights: str, recorded: Mapping[str, Any]) -> Initial:
    reader = CheckpointReader(chosen)
    reader.verify([format.STATE])
    state = reader.state()
    usual = ["raw", "ema"] if state["ema"] else ["raw"]
    held = [name for name in [*usual, *state["ema"]] if reader.kind_of(name) in reader.kinds]
    weights = weights or ("ema" if "ema" in held else "raw")
    if weights not in held:
        expected = f"{AVERAGE} and one of {', '.join(held)} after the place: {chosen} holds no {weights}"
        raise UserError(FIELD, text, expected)
    return Initial(text, run, chosen, weights, reader.average_of(weights), int(state["step"]), recorded)


def _of_export(text: str, folder: Path, weights: str, recorded: Mapping[str, Any]) -> Initial:
    record = exported.read_record(folder)
    held = record["weights"]
    if weights not in ("", "ema", held, record["average"]):
        raise UserError(FIELD, text, f"no {AVERAGE}{weights}: {folder} holds the {held} weights alone")
    return Initial(text, folder, folder, held, record["average"], int(record["step"]), recorded)


def _of_autoencoder(text: str, folder: Path, weights: str) -> Initial:
    """Return the weights of the folder that a run of `train-autoencoder` has made.

    Public ones cannot be trained here.
    """
    if weights:
        raise UserError(FIELD, text, f"no {AVERAGE}{weights}: an autoencoder's folder has one set of weights")
    config, _ = store.read_config(folder)
    return Initial(text, folder, folder, "saved", None, None, {"model": to_dict(config)})


def has_checkpoint(output: Path) -> bool:
    """Return whether a run has a checkpoint of its own, with which it continues whatever it began from."""
    return bool(CheckpointStore(output / CHECKPOINTS).complete())


class _Record(TypedDict):
    sha256: str
    checkpoint: str
    weights: str


def read_record(output: Path) -> dict[str, Any] | None:
    """Read what a run records of its beginning, None for a random one; WorkError if it is damaged."""
    path = output / INITIAL
    if not path.is_file():
        return None
    record = json_files.read(path, dict[str, Any])
    json_files.checked(record, _Record, path)
    return record
