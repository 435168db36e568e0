"""Take whole weights out of a checkpoint, for sampling and export: no engine, no process group."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from core.checkpoint import format
from core.checkpoint.format import DamagedCheckpoint
from core.checkpoint.reader import CheckpointReader
from core.checkpoint.store import FOLDER, CheckpointStore
from core.errors import UserError
from core.files import sha256_file

PLAIN = "model.safetensors"  # of an export: one set of whole weights, in place of checkpoints
RECORD = "export.json"  # beside it: what these weights are, with `bytes` and `sha256`


def load_weights(path: Path, which: str = "ema") -> dict[str, Tensor]:
    """The whole weights of a checkpoint as CPU tensors, for `module.load_state_dict`; needs no process group.

    path: a checkpoint, the `checkpoints` folder, a run folder (its newest checkpoint then), or an export.
    which: "ema" (the main average), "raw", or the name of an average. Trainable weights come in fp32, frozen
    parameters and buffers as they were. Every file is verified first; WorkError on damage. An export holds
    one set of weights, whichever it was made of.
    """
    path = find(path)
    if (path / PLAIN).is_file():
        return _exported(path)
    reader = CheckpointReader(path)
    reader.verify()
    fixed = {key.partition("/")[2]: tensor for key, tensor in reader.fixed().items()}
    return reader.full(reader.kind_of(which)) | fixed


def _exported(folder: Path) -> dict[str, Tensor]:
    """The weights of an export, if they are those that its record tells of."""
    file, record = folder / PLAIN, folder / RECORD
    try:
        written = json.loads(record.read_text(encoding="utf-8"))["sha256"]
    except FileNotFoundError:
        raise DamagedCheckpoint(f"{record} is missing, which says what {PLAIN} must hash to") from None
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedCheckpoint(f"{record} cannot be read ({type(error).__name__}: {error})") from None
    if (found := sha256_file(file)) != written:
        raise DamagedCheckpoint(f"{file} is damaged: its SHA-256 is {found}, and {RECORD} says {written}")
    try:
        return load_file(file)
    except SafetensorError as error:
        raise DamagedCheckpoint(f"{file} cannot be read: {error}") from None


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
