"""The content of a checkpoint, copied at one moment, so that training goes on while it is written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from torch import Tensor

from core.averages.ema import Ema
from core.checkpoint import format
from core.engine.network import Network, Networks
from core.engine.shards import present
from core.memory.host_memory import HostMemory, nothing

if TYPE_CHECKING:  # DeepSpeed is imported only by those who train
    from core.engine.engine import Engine


@dataclass(frozen=True)
class Layout:
    """All ranks' ranges of a network together.

    partial: the parameters of kinds that do not exist for all.  cuts: how each parameter is cut over the
    ranks of a replica, (first, size) of `core.engine.shards.Cut`, in their order in it.
    """

    kinds: list[str]
    partial: dict[str, list[str]]
    shapes: dict[str, tuple[int, ...]]
    cuts: dict[str, tuple[int, int]]
    replicas: int = 1


@dataclass(frozen=True)
class Snapshot:
    """This rank's part of a checkpoint, on the CPU.

    tensors: the ranges this rank is to write, by key.  fixed: frozen parameters and buffers, whole.
    layouts: by network.  state: what goes into state.json.  arrived: waits until the tensors are whole.
    """

    rank: int
    ranks: int
    tensors: dict[str, Tensor]
    fixed: dict[str, Tensor]
    layouts: dict[str, Layout]
    state: dict[str, Any]
    arrived: Callable[[], None] = nothing

    @property
    def bytes(self) -> int:
        """Return the bytes of tensors that this rank writes."""
        written = [self.tensors, self.fixed] if self.rank == 0 else [self.tensors]
        return sum(x.numel() * x.element_size() for part in written for x in part.values())


def state_tensors(network: Network) -> dict[str, list[Tensor]]:
    """Return all sharded state, by kind; each a list of tensors laid out like the engine's `masters`."""
    engine, ema = network.engine, network.ema
    averages = _averages(ema, list(ema.averages)) if ema else {}
    return {format.WEIGHT: engine.masters, **engine.moments(), **averages}


def take(networks: Networks, state: dict[str, Any], memory: HostMemory | None) -> Snapshot:
    """Take everything a run needs to continue (collective: all ranks).

    memory: receives a copy, which may still be under way; engines wait for it before they change anything.
    None: views where the state lives on the CPU, valid until the next step.
    """
    kinds = {name: state_tensors(network) for name, network in networks.items()}
    tensors = _ranges(networks, kinds)
    copied = memory.copy(tensors) if memory else {key: tensor.cpu() for key, tensor in tensors.items()}
    fixed = {
        format.of_network(name, key): tensor
        for name, network in networks.items()
        for key, tensor in network.engine.fixed().items()
    }
    taken = _snapshot(networks, kinds, copied, fixed, state)
    if memory is None:
        return taken
    for network in networks.values():
        network.engine.before_change = memory.hold
    return replace(taken, arrived=memory.wait)


def take_averages(networks: Networks, state: dict[str, Any]) -> Snapshot:
    """Copy the power averages of `networks`, and nothing else, in fp16."""
    emas = {name: network.ema for name, network in networks.items() if network.ema}
    kinds = {name: _averages(ema, list(ema.config.widths)) for name, ema in emas.items()}
    tensors = {key: _half(tensor).cpu() for key, tensor in _ranges(networks, kinds).items()}
    return _snapshot(networks, kinds, tensors, {}, state)


def _snapshot(
    networks: Networks,
    kinds: dict[str, dict[str, list[Tensor]]],
    tensors: dict[str, Tensor],
    fixed: dict[str, Tensor],
    state: dict[str, Any],
) -> Snapshot:
    engines = {name: networks[name].engine for name in kinds}
    layouts = {name: _layout(engine, list(kinds[name])) for name, engine in engines.items()}
    world = next(iter(engines.values())).world
    return Snapshot(world.rank, world.size, tensors, fixed, layouts, state)


def _layout(engine: Engine, kinds: list[str]) -> Layout:
    partial = {kind: names for kind, names in engine.partial_moments().items() if kind in kinds}
    cuts = {cut.name: (cut.first, cut.size) for cut in engine.cuts}
    return Layout(kinds, partial, engine.trainable_shapes(), cuts, engine.replica_count)


def _averages(ema: Ema, names: list[str]) -> dict[str, list[Tensor]]:
    return {format.ema_kind(name): ema.averages[name] for name in names}


def _ranges(networks: Networks, kinds: dict[str, dict[str, list[Tensor]]]) -> dict[str, Tensor]:
    """Return views of the ranges that this rank is to write, by key."""
    ranges = {}
    for name, tensors in kinds.items():
        for kind, state in tensors.items():
            for shard in present(networks[name].engine.owned, state):
                key = format.key(format.of_network(name, kind), shard.name, shard.start)
                ranges[key] = shard.view(state)
    return ranges


def _half(tensor: Tensor) -> Tensor:
    """Copy to fp16, which has three bits more than bf16; to fp32 where a number is too large for it."""
    half = tensor.half()
    return half if bool(half.isfinite().all()) else tensor.clone()
