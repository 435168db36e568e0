"""Read the `latents.json` of a run or an export, which `tools.runs.latent_space` writes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired, TypedDict

from core.diffusion.paths.config import MOST_STEPS
from core.diffusion.paths.path import PathName
from core.diffusion.predictions import Prediction
from core.errors import UserError, WorkError
from core.reading import json_files
from core.reading.instead import instead
from core.reading.json_scalars import U16, U32, Range
from core.run.claim import job_of
from core.run.folder import LATENTS

TEXT_FOLDER = "text_folder"  # in latents.json; it may move
FPS = "fps"  # likewise; an index made anew from the tars does not know it
NOT_COMPARED = (TEXT_FOLDER, FPS)
ADDED_LATER = {
    "normalise": "measured",
    "text": None,
    TEXT_FOLDER: "",
    "times": None,
}  # fields that older runs do not record
LEARNT = {
    "null_share": None,
    "dropout": None,
    "untrained_classes": (),
    FPS: None,
}  # likewise, and it cannot be known of them
_Side = Annotated[int, Range(1, 1 << 31)]


class _NullShare(TypedDict):
    label: float | None
    text: float | None


class _Dropout(TypedDict):
    both: float
    label: float
    text: float


class _Text(TypedDict):
    """The fields of the text encoder's record that are read, not only compared."""

    tokens: U16
    width: U32
    precision: Literal["fp32", "bf16"]


_Rate = Annotated[float, Range(0, 1)]


class _Schedule(TypedDict):
    """The parameters of the path, those that it has."""

    steps: NotRequired[Annotated[int, Range(2, MOST_STEPS)]]
    beta_first: NotRequired[float]
    beta_last: NotRequired[float]
    zero_terminal_snr: NotRequired[bool]
    sigma_min: NotRequired[float]
    sigma_max: NotRequired[float]
    rates: NotRequired[list[_Rate]]


class _Space(TypedDict):
    """The content of `latents.json`."""

    mean: list[float | list[float]]
    std: list[float | list[float]]
    cache: str | dict[str, str]
    encoder: str
    classes: list[str]
    shapes: list[tuple[_Side, _Side, _Side, _Side]]
    path: PathName
    prediction: Prediction
    learned_sigma: bool
    normalise: NotRequired[str]
    text: NotRequired[_Text | None]
    text_folder: NotRequired[str]
    null_share: NotRequired[_NullShare | None]
    dropout: NotRequired[_Dropout | None]
    untrained_classes: NotRequired[list[str]]
    fps: NotRequired[Annotated[float, Range(0, 1 << 20)] | None]
    schedule: NotRequired[_Schedule]
    times: NotRequired[list[float] | None]


def read_space(run: Path) -> dict[str, Any]:
    """Read the `latents.json` of a run or an export; WorkError where it is damaged."""
    path = run / LATENTS
    content = json_files.read_sealed(path, dict[str, Any])
    space = json_files.checked(content, _Space, path)
    channels = {len(space["mean"]), len(space["std"])} | {shape[0] for shape in space["shapes"]}
    if len(channels) != 1 or not space["shapes"]:
        raise WorkError(f"{path}: mean, std and shapes are of different numbers of channels")
    return content


def space_file(run: Path) -> Path:
    """Return the path of the `latents.json` of a run or an export; UserError if it is neither."""
    path = run / LATENTS
    if not path.is_file():
        job = job_of(run)
        found = instead(run) or (f"; this is an output of {job}" if job else "")
        raise UserError("source", run, f"the folder of a training run (with {LATENTS}){found}")
    return path
