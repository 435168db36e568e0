"""What trainer, checkpoints and averages ask of an engine; its kinds are in `kinds.py`.

An engine shards, reduces and updates, by an existing system. All kinds keep the same promises: fp32 masters
that start from the fp32 weights, gradients of micro-steps added up in fp32, clipping by the norm of the whole
gradient, and a step that is not finite skipped on all ranks alike.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from core.distributed.ranks import World
from core.engine.config import EngineConfig
from core.engine.shards import Cut, Replicas, Shard
from core.engine.whole import send_whole
from core.metrics.watch import Watch
from core.optim.groups import OptimizerConfig


@dataclass(frozen=True)
class StepResult:
    """grad_norm: over all parameters, before clipping; inf when skipped.  applied: False when skipped.

    lr: the learning rate of the update.
    """

    grad_norm: float
    applied: bool
    lr: float


class Engine(ABC):
    """A network under training (construction is collective: all ranks, in the same order).

    module: the network.  masters: this rank's fp32 weights, which the optimizer updates, as flat tensors.
    shards: which range of which parameter lies where in them.  cuts: how `owned` is cut over all ranks,
    or the masters over those of a replica, where there are several.
    updates: optimizer updates applied so far.
    replicas: who holds the same masters, moments, averages and frozen parts; None where no other rank does.
    replica_count: how many ranks do, each of which writes an even part.
    data_ranks: how many ranks, or groups of ranks, hold different samples.
    is_constant: whether the network is a fixed function now (`restoring.constant`).
    before_change: called before masters, moments or averages change: a copy of them may be under way.
    """

    module: nn.Module
    masters: list[Tensor]
    shards: list[Shard]
    cuts: list[Cut]
    replicas: Replicas | None = None
    replica_count: int = 1

    def __init__(
        self,
        engine: EngineConfig,
        optimizer: OptimizerConfig,
        world: World,
        groups: list[dict[str, Any]],
    ) -> None:
        """Take note of the settings; groups: of parameters, with their names, as the optimizer has them."""
        self.config, self.optimizer, self.world = engine, optimizer, world
        self.updates, self.data_ranks = 0, world.size // engine.sequence_parallel
        self.is_constant = False
        self.before_change: Callable[[], None] = lambda: None
        self._groups = [{**group, "params": []} for group in groups]
        self._names = {name for group in groups for name in group["names"]}

    @abstractmethod
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the network's forward; an engine's hooks live here, so training never calls `module` itself."""

    @abstractmethod
    def backward(self, loss: Tensor, *, is_last: bool = True) -> None:
        """Add d(loss)/d(parameters) to the gradients; they sum over calls and over ranks until `step`.

        is_last: False where another call follows before the step; an engine may then reduce later.
        """

    @abstractmethod
    def step(self, lr: float, clipping: float | None = None) -> StepResult:
        """Clip and update, or skip on all ranks alike where a gradient is not finite (collective).

        clipping: the largest gradient norm of this step, 0 = any; None takes the config's.
        """

    @abstractmethod
    def discarding(self) -> AbstractContextManager[None]:
        """Return a context whose backward passes leave no trace: gradients are reduced and forgotten.

        Collective: all ranks. No step is taken in it.
        """

    @abstractmethod
    def observing(self, see: Callable[[str, Tensor], None]) -> AbstractContextManager[None]:
        """Return a context in which backward passes show this rank's gradients, before ranks add them up.

        see: is called with the name of a parameter and its whole gradient. Entered before `discarding`.
        """

    @abstractmethod
    def copies(self) -> Iterator[tuple[str, Tensor]]:
        """Yield the weights, by name, of which every rank holds a copy that is to equal the others'."""

    def frozen_parts(self) -> Iterator[tuple[str, Tensor]]:
        """Yield the parts of frozen weights, by name, that this rank alone holds."""
        yield from ()

    @abstractmethod
    def watch(self, watch: Watch) -> None:
        """Have `watch` time what is outside this code: calls of the library, the release of the graph."""

    @property
    def factor(self) -> int:
        """Return what `backward` multiplies a loss by, before gradients are summed or averaged over ranks."""
        return 1

    @property
    @abstractmethod
    def owned(self) -> list[Shard]:
        """Return the shards this rank is to write: over all ranks, every element of every parameter once."""

    @abstractmethod
    def trainable_shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the whole shape of every trainable parameter, also where this rank holds no part of it."""

    @abstractmethod
    def refresh(self) -> None:
        """Make the network follow `masters` after they were written to (collective: all ranks)."""

    @property
    @abstractmethod
    def _inner(self) -> torch.optim.Optimizer:
        """Return the optimizer whose parameters are the masters."""

    @abstractmethod
    def _whole(self, parameters: list[nn.Parameter], *, write: bool = False) -> Any:
        """Return a context that gives these parameters as whole tensors; `write` keeps rank 0's values."""

    def set_constant(self, is_constant: bool) -> None:
        """Make the network a fixed function, through which another one's loss goes back, or end that."""
        self.is_constant = is_constant
        for p in self._trained().values():
            p.requires_grad_(not is_constant)

    def moments(self) -> dict[str, list[Tensor]]:
        """Return the optimizer's state by name, each laid out like `masters`; see `OptimizerConfig.moments`.

        What the update rule of a flat does not keep is an empty tensor in its place.
        """
        states = [self._inner.state[flat] for flat in self.masters]
        names = self.optimizer.moments
        pairs = list(zip(states, self.masters, strict=True))
        return {n: [s.get(n, f.new_empty(0)) for s, f in pairs] for n in names}

    def partial_moments(self) -> dict[str, list[str]]:
        """Return the parameters that have a moment, for moments that not all parameters have."""
        if self.optimizer.name != "muon":
            return {}
        names: dict[str, list[str]] = {moment: [] for moment in self.optimizer.moments}
        for group in self._groups:
            for moment in ("momentum",) if group.get("rule") == "muon" else ("exp_avg", "exp_avg_sq"):
                names[moment] += group["names"]
        return names

    def group_settings(self) -> list[dict[str, Any]]:
        """Return each parameter group's plain settings and its names, for the record in a checkpoint."""
        skipped = ("params", "lr")
        return [
            {k: v for k, v in g.items() if k not in skipped and _plain(v)} for g in self._inner.param_groups
        ]

    def set_updates(self, updates: int) -> None:
        """Set the optimizer's own step counter, as after loading its moments."""
        self.updates = updates
        for state in self._inner.state.values():
            if "step" in state:
                state["step"].fill_(float(updates))

    def fixed(self) -> dict[str, Tensor]:
        """Return CPU copies of frozen parameters (`frozen/NAME`) and buffers (`buffer/NAME`) (collective)."""
        names, frozen = self._frozen()
        with self._whole(frozen) as whole:
            tensors = {f"frozen/{n}": p.detach().cpu().clone() for n, p in zip(names, whole, strict=True)}
        return tensors | {f"buffer/{n}": b.detach().cpu().clone() for n, b in self._kept_buffers()}

    @torch.no_grad()
    def set_fixed(self, tensors: dict[str, Tensor]) -> None:
        """Write what `fixed` returned back into the network (collective: all ranks, with equal tensors)."""
        names, frozen = self._frozen()
        with self._whole(frozen, write=True) as whole:
            for name, p in zip(names, whole, strict=True):
                p.copy_(tensors[f"frozen/{name}"])
        for name, buffer in self._kept_buffers():
            buffer.copy_(tensors[f"buffer/{name}"])

    def full_state(self, weights: list[Tensor] | None = None) -> dict[str, Tensor]:
        """Return all trainable weights, or `weights` (like the masters) instead: whole, fp32, on the CPU.

        Collective: all ranks; the dict is filled on rank 0 and empty elsewhere.
        """
        full = send_whole(self.masters if weights is None else weights, self.owned, self.world)
        return {name: full[name] for name in self.trainable_shapes() if name in full}

    def _trained(self) -> dict[str, nn.Parameter]:
        """Return the trainable parameters by name."""
        return {n: p for n, p in self._parameters().items() if self._is_trained(n, p)}

    def _frozen(self) -> tuple[list[str], list[nn.Parameter]]:
        """Return the names of the frozen parameters, and these."""
        frozen = {n: p for n, p in self._parameters().items() if not self._is_trained(n, p)}
        return list(frozen), list(frozen.values())

    def _is_trained(self, name: str, parameter: nn.Parameter) -> bool:
        """Return whether a parameter is trained, also while the network is constant."""
        return parameter.requires_grad or name in self._names

    def _parameters(self) -> dict[str, nn.Parameter]:
        """Return the parameters, as the engine keeps them between passes, by name."""
        return dict(self.module.named_parameters())

    def _kept_buffers(self) -> list[tuple[str, Tensor]]:
        """Return the buffers that belong to the state: those a module would save."""
        persistent = self.module.state_dict(keep_vars=True).keys()
        return [(n, b) for n, b in self.module.named_buffers() if n in persistent]


@contextlib.contextmanager
def hooked(parameters: dict[str, nn.Parameter], see: Callable[[str, Tensor], None]) -> Iterator[None]:
    """Call `see` with the name and the gradient of each of these parameters in every backward pass."""

    def seeing(name: str) -> Callable[[Tensor], None]:
        return lambda gradient: see(name, gradient)

    handles = [p.register_hook(seeing(name)) for name, p in parameters.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _plain(value: Any) -> bool:
    return value is None or isinstance(value, (bool, int, float, str, list, tuple))
