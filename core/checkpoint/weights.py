"""Read weights of a checkpoint or an export, for sampling, export and new runs: no engine, no process group.

They can be had whole, one after another, or by ranges: no process ever needs all of them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from core.checkpoint import exported, format
from core.checkpoint.reader import CheckpointReader
from core.checkpoint.store import CheckpointStore
from core.checkpoint.tensor_file import Entry, open_tensors, read_range
from core.engine.network import MAIN
from core.errors import UserError
from core.reading.instead import instead
from core.run.folder import CHECKPOINTS


class Stored(Mapping[str, Tensor], ABC):
    """Whole weights by name, each read when it is asked for."""

    _names: Mapping[str, Any]

    @abstractmethod
    def part(self, name: str, start: int, stop: int) -> Tensor:
        """Return elements [start, stop) of a flattened weight, 1-D, in fp32."""

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


class CheckpointWeights(Stored):
    """Trainable weights of one kind in fp32, then frozen parameters and buffers, as they were.

    reader: of a checkpoint that was verified.
    """

    def __init__(self, reader: CheckpointReader, kind: str) -> None:
        self._reader, self._kind = reader, kind
        self._fixed = {entry.name: entry for entry in reader.fixed_entries()}
        self._names = dict.fromkeys([*reader.names(kind), *self._fixed])

    def __getitem__(self, name: str) -> Tensor:
        if name in self._fixed:
            return self._fixed[name].read()
        return self._reader.whole(self._kind, name)

    def part(self, name: str, start: int, stop: int) -> Tensor:
        if name in self._fixed:
            return self._fixed[name].read().flatten()[start:stop].float()
        out = torch.empty(stop - start)
        self._reader.read(self._kind, name, start, stop, out)
        return out


class ExportedWeights(Stored):
    """The weights of an export, in files that were verified."""

    def __init__(self, files: Sequence[Path]) -> None:
        opened = [open_tensors(path) for path in files]
        self._names = {name: file for file in opened for name in file.keys()}  # noqa: SIM118 (not a dict)

    def __getitem__(self, name: str) -> Tensor:
        found: Tensor = self._names[name].get_tensor(name)
        return found

    def part(self, name: str, start: int, stop: int) -> Tensor:
        return read_range(self._names[name], name, start, stop).float()


class LoadedWeights(Stored):
    """Weights that are in memory already, as those of an autoencoder are."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._names = tensors

    def __getitem__(self, name: str) -> Tensor:
        found: Tensor = self._names[name]
        return found

    def part(self, name: str, start: int, stop: int) -> Tensor:
        return self[name].flatten()[start:stop].float()


def open_stored(path: Path, which: str, network: str, *, is_verified: bool = False) -> Stored:
    """Open a checkpoint or an export, as `load_weights` takes it.

    is_verified: whether another rank has compared all files with what was recorded of them.
    """
    if exported.is_export(path):
        return ExportedWeights(exported.files_of(path, is_verified=is_verified))
    reader = CheckpointReader(path, network)
    if not is_verified:
        reader.verify()
    return CheckpointWeights(reader, reader.kind_of(which))


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
    return dict(open_stored(path, which, network))


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


def require_held(chosen: Path, which: str) -> None:
    """Raise UserError, naming those that are there, for weights that a checkpoint or an export does not hold.

    which: as `load_weights` takes it; "ema" is the one set of an export, whichever that is.
    """
    if not exported.is_export(chosen):
        CheckpointReader(chosen).kind_of(which)
        return
    record = exported.read_record(chosen)
    if which not in ("ema", record["weights"], record["average"]):
        raise UserError("weights", which, f"ema, for the {record['weights']} that {chosen} holds")


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
