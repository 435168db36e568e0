"""Write the weights of a training run as one plain safetensors file, with what is needed to use them.

The folder holds `model.safetensors`, the run's `config.yaml`, `latents.json` and `autoencoder/`, and
`export.json`, which says what the weights are, and what every file hashes to. `sample` takes it in place of a
run. With `ema_sigma` the average of that relative length is found from the power-function averages that the
run kept (`ema.power_widths`), as in Karras et al. 2024 (arXiv:2312.02696).
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from core.config.settings import REQUIRED, setting
from core.errors import UserError, WorkError
from core.files import fsync_folder, temporary_name

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Config:
    """Which weights to write, and where."""

    job: ClassVar[str] = "export"

    source: str = setting(REQUIRED, "folder of a training run", shown="path")
    output: str = setting(REQUIRED, "new folder, or an earlier export with overwrite=true", shown="path")
    overwrite: bool = setting(False, "replace an earlier export")
    checkpoint: str = setting("", "name of a checkpoint of the run; '' is the newest")
    weights: str = setting(
        "ema", "ema: the main average; raw: those of the step itself; or an average's name"
    )
    ema_sigma: float = setting(
        0.0, "instead: the average of this relative length, 0 = none", low=0.0, high=0.288
    )
    dtype: Literal["fp32", "bf16", "fp16"] = setting("fp32", "of the trained weights in the file")
    processes: int = setting(1, "not used: one process writes", low=1)

    def __post_init__(self) -> None:
        if self.ema_sigma and self.weights != "ema":
            raise UserError("weights", self.weights, "ema with ema_sigma, which chooses the weights itself")


def plan(config: Config) -> list[str]:
    """Say what `run` would do."""
    source, output = Path(config.source), Path(config.output)
    checkpoint = _chosen(source, config.checkpoint, output, overwrite=config.overwrite)
    what = (
        f"the average of relative length {config.ema_sigma}"
        if config.ema_sigma
        else f"weights={config.weights}"
    )
    return [f"write {what} of {checkpoint} to {config.output}, in {config.dtype}"]


def run(config: Config) -> None:
    """Export, whole or not at all; WorkError if the run is damaged."""
    from core.progress import say

    source, output = Path(config.source), Path(config.output)
    checkpoint = _chosen(source, config.checkpoint, output, overwrite=config.overwrite)
    state, record = _weights(checkpoint, source, config.weights, config.ema_sigma)
    temporary = temporary_name(output)
    try:
        record |= {"dtype": config.dtype}
        record = _write(temporary, source, _cast(state, config.dtype), record)
        if output.exists():
            shutil.rmtree(output)
        temporary.rename(output)
        fsync_folder(output.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    size = sum(file["size"] for file in record["files"].values())
    error = f", profile found to {record['profile_error']:.1%}" if config.ema_sigma else ""
    say(f"{output}: {len(state)} tensors, {size / 2**20:.1f} MiB, step {record['step']}{error}")


def _chosen(source: Path, checkpoint: str, output: Path, *, overwrite: bool) -> Path:
    """Return the checkpoint to export; UserError for what can be seen before work starts."""
    from core.checkpoint.exported import is_export, read_record
    from core.checkpoint.weights import choose
    from core.run.folder import EXPORT
    from core.run.ways_out import holds
    from tools.runs.space_record import space_file

    space_file(source)
    if is_export(source):
        raise UserError("source", source, "the folder of a training run; this is an export already")
    if output.exists() and not ((output / EXPORT).is_file() and overwrite):
        if not (output / EXPORT).is_file():
            raise UserError("output", output, "a new folder; it exists")
        earlier = read_record(output)
        held = f"{earlier['weights']} of step {earlier['step']}, {holds(output)}"
        raise UserError("output", output, f"a new folder; overwrite=true replaces the export there: {held}")
    return choose(source, checkpoint)


def _weights(
    checkpoint: Path, run: Path, weights: str, ema_sigma: float
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the whole state of the network, and the contents of `export.json` on it.

    weights: as `export` takes it.  ema_sigma: of an average to be found from those of the run; 0 is none.
    """
    from core.checkpoint.reader import CheckpointReader
    from core.checkpoint.reconstruct import reconstruct
    from core.checkpoint.weights import load_weights

    state, seen = load_weights(checkpoint, "raw" if ema_sigma else weights), {}
    reader = CheckpointReader(checkpoint)
    if not ema_sigma:
        average = reader.average_of(weights)
    else:
        rebuilt = reconstruct(run, checkpoint, ema_sigma)
        state |= rebuilt.weights
        seen = {"snapshots": rebuilt.snapshots, "profile_error": rebuilt.profile_error}
        weights = average = f"sigma={ema_sigma:g}"
    written = reader.state()
    return state, {
        "checkpoint": checkpoint.name,
        "step": written["step"],
        "updates": written["updates"],
        "weights": weights,
        "average": average,
        "trained": sorted(reader.shapes),
        **seen,
    }


def _cast(state: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    """Cast the weights to another type; UserError if a number is too large for it."""
    import torch

    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[name]
    cast = {key: tensor.to(dtype) if tensor.is_floating_point() else tensor for key, tensor in state.items()}
    for key, tensor in cast.items():
        if not bool(tensor.isfinite().all()) and bool(state[key].isfinite().all()):
            raise UserError("dtype", name, f"fp32 or bf16: {key} has numbers beyond its range")
    return cast


def _write(folder: Path, run: Path, state: dict[str, Tensor], record: dict[str, Any]) -> dict[str, Any]:
    """Fill the folder; return the contents of its `export.json`."""
    from core.checkpoint import exported
    from core.run.folder import AUTOENCODER, CONFIG, INITIAL, LATENTS

    folder.mkdir(parents=True)
    try:
        for name in (CONFIG, LATENTS, *([INITIAL] if (run / INITIAL).is_file() else [])):
            shutil.copyfile(run / name, folder / name)
        shutil.copytree(run / AUTOENCODER, folder / AUTOENCODER)
    except FileNotFoundError as error:
        raise WorkError(f"{run} is not whole: {error.filename} is missing") from None
    return exported.finish(folder, state, record)
