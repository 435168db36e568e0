"""Take whole weights out of a checkpoint, for sampling and export: no engine, no process group."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from core.checkpoint import format
from core.checkpoint.format import DamagedCheckpoint
from core.checkpoint.reader import CheckpointReader
from core.checkpoint.store import FOLDER, CheckpointStore
from core.errors import UserError

PLAIN = "model.safetensors"  # of an export: one set of whole weights, in place of checkpoints


def load_weights(path: Path, which: str = "ema") -> dict[str, Tensor]:
    """The whole weights of a checkpoint as CPU tensors, for `module.load_state_dict`; needs no process group.

    path: a checkpoint, the `checkpoints` folder, a run folder (its newest checkpoint then), or an export.
    which: "ema" (the main average), "raw", or the name of an average. Trainable weights come in fp32, frozen
    parameters and buffers as they were. Every file is verified first; WorkError on damage. An export holds
    one set of weights, whichever it was made of.
    """
    path = find(path)
    if (path / PLAIN).is_file():
        try:
            return load_file(path / PLAIN)
        except SafetensorError as error:
            raise DamagedCheckpoint(f"{path / PLAIN} cannot be read: {error}") from None
    reader = CheckpointReader(path)
    reader.verify()
    fixed = {key.partition("/")[2]: tensor for key, tensor in reader.fixed().items()}
    return reader.full(reader.kind_of(which)) | fixed


def find(path: Path) -> Path:
    """What a checkpoint folder, a `checkpoints` folder, a run folder (its newest) or an export stands for."""
    if (path / PLAIN).is_file():
        return path
    if (path / format.MANIFEST).exists() or format.step_of(path) is not None:
        return path
    for folder in (path / FOLDER, path):
        newest = CheckpointStore(folder).latest()
        if newest is not None:
            return newest
    raise UserError("checkpoint", path, "a checkpoint, or a run folder that holds a complete one")
