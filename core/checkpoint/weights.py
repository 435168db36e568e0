"""Take whole weights out of a checkpoint, for sampling and export: no engine, no process group."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from core.checkpoint import format
from core.checkpoint.reader import CheckpointReader
from core.checkpoint.store import FOLDER, CheckpointStore
from core.errors import UserError


def load_weights(path: Path, which: str = "ema") -> dict[str, Tensor]:
    """The whole weights of a checkpoint as CPU tensors, for `module.load_state_dict`; needs no process group.

    path: a checkpoint, the `checkpoints` folder, or a run folder (its newest checkpoint then).
    which: "ema" (the main average), "raw", or the name of an average. Trainable weights come in fp32, frozen
    parameters and buffers as they were. Every file is verified first; WorkError on damage.
    """
    reader = CheckpointReader(find(path))
    reader.verify()
    fixed = {key.partition("/")[2]: tensor for key, tensor in reader.fixed().items()}
    return reader.full(reader.kind_of(which)) | fixed


def find(path: Path) -> Path:
    """The checkpoint that a checkpoint folder, a `checkpoints` folder or a run folder stands for."""
    if (path / format.MANIFEST).exists() or format.step_of(path) is not None:
        return path
    for folder in (path / FOLDER, path):
        newest = CheckpointStore(folder).latest()
        if newest is not None:
            return newest
    raise UserError("checkpoint", path, "a checkpoint, or a run folder that holds a complete one")
