"""Read whole weights from a checkpoint, for sampling and export: no engine, no process group."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from core.checkpoint import exported, format
from core.checkpoint.reader import CheckpointReader
from core.checkpoint.store import CheckpointStore
from core.checkpoint.tensor_file import Entry
from core.engine.network import MAIN
from core.errors import UserError
from core.files import instead
from core.run.folder import CHECKPOINTS


def load_weights(path: Path, which: str = "ema", network: str = MAIN) -> dict[str, Tensor]:
    """Return the whole weights of a checkpoint as CPU tensors, for `module.load_state_dict`.

    path: a checkpoint, the `checkpoints` folder, a run folder (its newest checkpoint then), or an export.
    which: "ema" (the main average), "raw", or the name of an average. Trainable weights come in fp32, frozen
    parameters and buffers as they were. Every file is verified first; WorkError on damage. An export holds
    one set of weights, whichever it was made of.
    network: of several that a run has trained.
    """
    path = find(path)
    if exported.is_export(path):
        if network:
            raise UserError("network", network, f"'', since {path} is an export")
        return exported.load(path)
    reader = CheckpointReader(path, network)
    reader.verify()
    fixed = {key.partition("/")[2]: tensor for key, tensor in reader.fixed().items()}
    return reader.full(reader.kind_of(which)) | fixed


def weight_entries(path: Path, which: str = "ema") -> list[Entry]:
    """Return what `load_weights` does of a checkpoint or an export, to be read tensor by tensor."""
    if exported.is_export(path):
        return exported.entries(path)
    reader = CheckpointReader(path)
    reader.verify()
    kind = reader.kind_of(which)
    trained = [
        Entry(name, reader.shapes[name], torch.float32, partial(reader.whole, kind, name))
        for name in reader.names(kind)
    ]
    return trained + reader.fixed_entries()


def find(path: Path) -> Path:
    """Return `path` if it is a checkpoint or an export, or the newest checkpoint of a run there."""
    if exported.is_export(path):
        return path
    if (path / format.MANIFEST).exists() or format.step_of(path) is not None:
        return path
    for folder in (path / CHECKPOINTS, path):
        newest = CheckpointStore(folder).latest()
        if newest is not None:
            return newest
    expected = f"a checkpoint, or a run folder that holds a complete one{instead(path)}"
    raise UserError("checkpoint", path, expected)


def choose(source: Path, checkpoint: str) -> Path:
    """Return the checkpoint of that name in the run `source` ('' is the newest), or `source`, an export."""
    if exported.is_export(source):
        if checkpoint:
            raise UserError("checkpoint", checkpoint, f"'', since {source} is an export")
        return source
    store = CheckpointStore(source / CHECKPOINTS)
    newest = store.latest()
    if newest is None:
        raise UserError("source", source, f"a run that has saved a checkpoint{instead(source)}")
    if not checkpoint:
        return newest
    names = [entry.path.name for entry in store.complete()]
    if checkpoint not in names:
        raise UserError("checkpoint", checkpoint, f"one of {', '.join(names)}, which {source} holds; or ''")
    return store.folder / checkpoint
