"""What a checkpoint is made of, taken at one moment: afterwards training may go on while it is written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from core.averages.ema import Ema
from core.checkpoint import format
from core.engine.shards import present

if TYPE_CHECKING:  # DeepSpeed is imported only by those who train
    from core.engine.engine import Engine


@dataclass(frozen=True)
class Snapshot:
    """This rank's part of a checkpoint, on the CPU.

    tensors: the ranges this rank is to write, by key.  fixed: frozen parameters and buffers, whole.
    kinds, shapes: what all ranks' ranges make up together.  partial: the parameters of kinds that do not
    exist for all.  state: what goes into state.json.
    """

    rank: int
    ranks: int
    tensors: dict[str, Tensor]
    fixed: dict[str, Tensor]
    kinds: list[str]
    partial: dict[str, list[str]]
    shapes: dict[str, tuple[int, ...]]
    state: dict[str, Any]

    @property
    def bytes(self) -> int:
        """What this rank's ranges take."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.tensors.values())


class HostMemory:
    """Where copies of the state land, pinned for CUDA; kept, since fresh memory costs page faults each time.

    A copy is valid until the next one: what is written from it must be finished by then.
    """

    def __init__(self) -> None:
        self._kept: dict[str, Tensor] = {}

    def copy(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Copy all `tensors`, over PCIe at once, and wait for it."""
        for key, source in tensors.items():
            if key not in self._kept:
                self._kept[key] = torch.empty_like(source, device="cpu", pin_memory=source.is_cuda)
            self._kept[key].copy_(source, non_blocking=True)
        if any(source.is_cuda for source in tensors.values()):
            torch.cuda.current_stream().synchronize()
        return {key: self._kept[key] for key in tensors}


def state_tensors(engine: Engine, ema: Ema | None) -> dict[str, list[Tensor]]:
    """All that is sharded, by kind; each a list of tensors laid out like `engine.flats`."""
    return {
        format.WEIGHT: engine.flats,
        **engine.moments(),
        **_averages(ema, list(ema.averages) if ema else []),
    }


def take(engine: Engine, ema: Ema | None, state: dict[str, Any], memory: HostMemory | None) -> Snapshot:
    """Everything a run needs to continue (collective: all ranks).

    memory: receives a copy. None: views where the state lives on the CPU, valid until the next step.
    """
    kinds = state_tensors(engine, ema)
    tensors = _ranges(engine, kinds)
    copied = memory.copy(tensors) if memory else {key: tensor.cpu() for key, tensor in tensors.items()}
    return _snapshot(engine, list(kinds), copied, engine.fixed(), state)


def take_averages(engine: Engine, ema: Ema, names: list[str], state: dict[str, Any]) -> Snapshot:
    """A small copy, in fp16, of the averages `names` and nothing else."""
    kinds = _averages(ema, names)
    tensors = {key: _half(tensor).cpu() for key, tensor in _ranges(engine, kinds).items()}
    return _snapshot(engine, list(kinds), tensors, {}, state)


def _snapshot(
    engine: Engine,
    kinds: list[str],
    tensors: dict[str, Tensor],
    fixed: dict[str, Tensor],
    state: dict[str, Any],
) -> Snapshot:
    world, shapes = engine.world, engine.trainable_shapes()
    partial = {kind: names for kind, names in engine.partial_moments().items() if kind in kinds}
    return Snapshot(world.rank, world.size, tensors, fixed, kinds, partial, shapes, state)


def _averages(ema: Ema | None, names: list[str]) -> dict[str, list[Tensor]]:
    return {format.ema_kind(name): ema.averages[name] for name in names} if ema else {}


def _ranges(engine: Engine, kinds: dict[str, list[Tensor]]) -> dict[str, Tensor]:
    """Views of the ranges that this rank is to write, by key."""
    return {
        format.key(kind, shard.name, shard.start): shard.view(flats)
        for kind, flats in kinds.items()
        for shard in present(engine.owned, flats)
    }


def _half(tensor: Tensor) -> Tensor:
    """A copy in fp16, which has three bits more than bf16; in fp32 where a number is too large for it."""
    half = tensor.half()
    return half if bool(half.isfinite().all()) else tensor.clone()
