"""The engine of PyTorch's FSDP2: weights, gradients and optimizer shared out by rows and gathered by block.

FSDP2 gathers, reduces and overlaps. This engine gives it the same promises that the other kinds keep: fp32
masters, as flat tensors, from the fp32 weights; gradients reduced and added up in fp32; clipping by the norm
of the whole gradient; a step that is not finite skipped on all ranks alike.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from core.distributed import ranks
from core.distributed.ranks import World
from core.engine.config import EngineConfig
from core.engine.engine import Engine, StepResult, hooked
from core.engine.first_weights import agree
from core.engine.fsdp2.mesh import make_sharing
from core.engine.fsdp2.places import make_ready, places, sharded_modules
from core.engine.fsdp2.sharded import Sharded
from core.engine.fsdp2.sharding import give_memory, require_sharable, shard
from core.engine.optimizer import allocate_state, settings_of, share_matrices
from core.engine.shards import Shard, require_cuts, share
from core.first_values.recording import first_of
from core.metrics.watch import Watch
from core.optim.groups import OptimizerConfig, parameter_groups


class FsdpEngine(Engine):
    """A network under training by FSDP2. The modules of its attribute `blocks` are gathered one by one."""

    def __init__(
        self, model: nn.Module, engine: EngineConfig, optimizer: OptimizerConfig, world: World
    ) -> None:
        require_sharable(model)
        firsts = first_of(model)
        groups = parameter_groups(model, optimizer)
        super().__init__(engine, optimizer, world, groups)
        ranks.barrier()  # all ranks enter the collectives below together
        if not firsts:
            agree(model, world)
        self._sharing = sharing = make_sharing(world, engine)
        shard(model, engine, sharing.mesh)
        if firsts:
            give_memory(model, world.device)
        ranks.set_timeouts(engine.timeout_s)
        self.module = model
        self._places = places(model, sharing.rank)
        for name, first in firsts.items():
            self._places[name].write(first)
        self._optimizer = Sharded(
            groups,
            self._places,
            sharing,
            gradient_clipping=engine.gradient_clipping,
            **settings_of(optimizer),
        )
        make_ready(self._root)
        self.masters, self.shards = self._optimizer.masters, self._optimizer.shards
        cuts, place = self._optimizer.cuts, (sharing.rank, sharing.size, sharing.group)
        share_matrices(self._inner, self.masters, self.shards, cuts, engine, *place)
        require_cuts(cuts, self.shards, sharing.rank)
        self.replicas, self.replica_count, self.cuts = sharing.equals, sharing.replicas, cuts
        allocate_state(self._inner, self.masters)
        self._awaits_last = False
        self._forward: Callable[..., Any] = model
        self._backward: Callable[[Tensor], Any] = torch.autograd.backward
        self._update: Callable[[], Any] = self._optimizer.step

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the network's forward; without gradients its weights are gathered for this call alone."""
        if torch.is_grad_enabled():
            return self._forward(*args, **kwargs)
        try:
            return self._forward(*args, **kwargs)
        finally:
            self._release()

    def backward(self, loss: Tensor, *, is_last: bool = True) -> None:
        """Add d(loss)/d(parameters) to the gradients; with reduce=last, ranks add up in the last call."""
        if self.config.reduce == "last":
            self._root.set_requires_gradient_sync(is_last)
            for name in self._names if is_last and self._awaits_last else ():
                self._places[name].sum_from_zero()
            self._awaits_last = not is_last
        self._backward(loss)

    def step(self, lr: float, clipping: float | None = None) -> StepResult:
        """Clip and update, or skip on all ranks alike where a gradient is not finite (collective)."""
        if self._awaits_last:
            raise RuntimeError("a step whose last backward pass was not said to be its last")
        optimizer = self._optimizer
        optimizer.clip_grad = self.config.gradient_clipping if clipping is None else clipping
        for group in optimizer.param_groups:
            group["lr"] = lr
        self._update()
        applied = not optimizer.overflow
        self.updates += applied
        return StepResult(optimizer._global_grad_norm, applied, lr)

    @contextlib.contextmanager
    def discarding(self) -> Iterator[None]:
        """Forget the gradients of this block, which are added up like others until its end."""
        try:
            yield
        finally:
            self._optimizer.forget()

    def observing(self, see: Callable[[str, Tensor], None]) -> AbstractContextManager[None]:
        """Show gradients by hooks on the gathered parameters: those on sharded ones are never called."""
        return hooked({name: self._places[name].whole() for name in self._trained()}, see)

    def copies(self) -> Iterator[tuple[str, Tensor]]:
        """Yield nothing: no rank holds whole weights between steps."""
        yield from ()

    def frozen_parts(self) -> Iterator[tuple[str, Tensor]]:
        """Yield this rank's rows."""
        places = self._places.items()
        yield from ((name, place.local) for name, place in places if name not in self._names)

    def watch(self, watch: Watch) -> None:
        """Have `watch` time the passes and the update, and the release of the graph."""
        self._forward, self._backward = watch.around(self._forward), watch.around(self._backward)
        self._update = watch.around(self._update)
        self.backward = watch.around_release(self.backward)  # type: ignore[method-assign]

    @property
    def owned(self) -> list[Shard]:
        """Return the shards, or this replica's even part of what all replicas hold."""
        return share(self.shards, self._sharing.replica, self._sharing.replicas)

    def trainable_shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the whole shape of every trainable parameter."""
        return {name: self._places[name].shape for name in self._trained()}

    def refresh(self) -> None:
        """Release gathered weights: the next pass gathers them from the masters, which they are rows of."""
        self._release()

    def set_constant(self, is_constant: bool) -> None:
        """Release gathered weights, since only those that are gathered again take notice."""
        self._release()
        super().set_constant(is_constant)

    @property
    def _inner(self) -> torch.optim.Optimizer:
        return self._optimizer

    @property
    def _root(self) -> FSDPModule:
        assert isinstance(self.module, FSDPModule)
        return self.module

    def _parameters(self) -> dict[str, nn.Parameter]:
        return {name: place.parameter for name, place in self._places.items()}

    def _release(self) -> None:
        for module in sharded_modules(self.module):
            module.reshard()

    @contextlib.contextmanager
    def _whole(self, parameters: list[nn.Parameter], *, write: bool = False) -> Iterator[list[Tensor]]:
        whole = [p.full_tensor().detach() for p in parameters if isinstance(p, DTensor)]
        yield whole
        if write:
            found = {id(place.parameter): place for place in self._places.values()}
            for p, values in zip(parameters, whole, strict=True):
                place = found[id(p)]
                place.local.view(-1).copy_(values.view(-1)[place.start : place.stop])
            self._release()
