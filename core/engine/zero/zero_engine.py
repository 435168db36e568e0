"""One engine for ZeRO stages 0 to 3, on CPU and CUDA: forward, N backwards, one step, by DeepSpeed.

DeepSpeed shards, reduces and updates. This engine adds what its defaults do not give: clipping that is always
set explicitly, fp32 masters that start from the fp32 weights, gradients of micro-steps added up in fp32, a
non-finite step skipped on all ranks at every stage and precision, timeouts on its own process groups, and no
C++ build.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from core.distributed import ranks
from core.distributed.ranks import World
from core.engine.config import EngineConfig
from core.engine.engine import Engine, StepResult, hooked
from core.engine.first_weights import settle
from core.engine.optimizer import allocate_state, share_matrices
from core.engine.shards import Shard, require_cuts, share, share_cuts
from core.engine.zero import partitions
from core.engine.zero.accumulate import MicroStepSum
from core.engine.zero.deepspeed_config import deepspeed_config
from core.engine.zero.deepspeed_loading import load_deepspeed
from core.engine.zero.gathered_linear import use_gathered_linear
from core.engine.zero.zero_optimizer import make_optimizer
from core.metrics.watch import TimedEngine, Watch
from core.optim.groups import OptimizerConfig, parameter_groups


class ZeroEngine(Engine):
    """A network under training by DeepSpeed."""

    def __init__(
        self, model: nn.Module, engine: EngineConfig, optimizer: OptimizerConfig, world: World
    ) -> None:
        groups = parameter_groups(model, optimizer)
        super().__init__(engine, optimizer, world, groups)
        ranks.barrier()  # all ranks enter the collectives below together
        library = load_deepspeed(world.device)
        if engine.stage == 3:
            use_gathered_linear(model)
        numbers = sum(p.numel() for p in model.parameters() if p.requires_grad)
        settings = deepspeed_config(engine, numbers, world.size)
        dtype = torch.bfloat16 if engine.precision == "bf16" else torch.float32
        share_out = partitions.sharing(library, settings, dtype, world.device) if engine.stage == 3 else None
        follow = engine.stage in (1, 2)  # stage 0 gathers nothing, stage 3 shares out what is drawn
        firsts = settle(model, world, dtype, share_out, follow=follow)
        named = dict(model.named_parameters())
        groups = [{**group, "params": [named[name] for name in group["names"]]} for group in groups]
        parameters = [p for group in groups for p in group["params"]]
        self._engine = library.initialize(
            args=SimpleNamespace(device_rank=world.device.index or 0),
            model=model,
            model_parameters=groups,
            optimizer=lambda parameters: make_optimizer(parameters, engine, optimizer),
            config=settings,
            dist_init_required=False,
        )[0]
        if engine.stage == 0:
            self._engine.enable_backward_allreduce = False  # Replicated reduces, once a step, in fp32
        # DeepSpeed then raises where a backward pass that another engine began would enter this one's.
        self._engine._support_torch_style_backward = False
        self._micro_steps = MicroStepSum(parameters) if engine.sums_micro_steps else None
        ranks.set_timeouts(engine.timeout_s)
        self.module = model
        self._sharded: Any = self._engine.optimizer
        self.masters = partitions.masters(self._sharded)
        self.shards = partitions.locate(self._sharded, model, world.rank)
        cuts = partitions.cuts(self._sharded, model)
        rank, size = (0, 1) if engine.stage == 0 else (world.rank, world.size)
        share_matrices(self._inner, self.masters, self.shards, cuts, engine, rank, size)
        self.cuts = cuts if engine.stage > 0 else share_cuts(self.shards, world.size)
        require_cuts(self.cuts, self.owned, world.rank)
        allocate_state(self._inner, self.masters)
        with torch.no_grad():
            for shard in self.shards if firsts else []:
                shard.view(self.masters).copy_(firsts[shard.name](shard.start, shard.stop))
        if firsts and follow:
            self.refresh()
        # They may be the network's weights in fp32, and imports that failed above keep this frame for good:
        # `garbage.none_expected` exempts the tracebacks of their errors.
        firsts.clear()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the network's forward, with ZeRO's hooks."""
        if self.is_constant:  # its output gets no hook that begins a backward pass of this engine
            return self.module(*args, **kwargs)
        return self._engine(*args, **kwargs)

    def backward(self, loss: Tensor, *, is_last: bool = True) -> None:
        """Add d(loss)/d(parameters) to the gradients."""
        if self._micro_steps is not None:
            self._micro_steps.before_backward()
        if self.factor > 1:
            loss = loss * self.factor
        self._engine.backward(loss)

    def step(self, lr: float, clipping: float | None = None) -> StepResult:
        """Clip and update, or skip on all ranks alike where a gradient is not finite (collective)."""
        self._sharded.clip_grad = self.config.gradient_clipping if clipping is None else clipping
        for group in self._inner.param_groups:
            group["lr"] = lr
        if self._micro_steps is not None:
            self._micro_steps.before_step()
        self._engine.step()
        applied = bool(self._engine.was_step_applied())
        self.updates += applied
        return StepResult(float(self._engine.get_global_grad_norm()), applied, lr)

    @contextlib.contextmanager
    def discarding(self) -> Iterator[None]:
        """Forget the gradients of this block.

        They are computed and reduced as always, but are NaN from where they reach a parameter. So the engine
        skips the step that ends the block, on all ranks alike, and a skipped step leaves nothing behind at
        any ZeRO stage: it does not matter where each of them keeps gradients.
        """
        handles = [
            p.register_hook(lambda gradient: gradient * float("nan")) for p in self._trained().values()
        ]
        try:
            yield
            if self.step(0.0, 0.0).applied:
                raise RuntimeError("a step that was to be discarded was applied")
        finally:
            for handle in handles:
                handle.remove()

    def observing(self, see: Callable[[str, Tensor], None]) -> AbstractContextManager[None]:
        """Show gradients by hooks on the parameters."""
        return hooked(self._trained(), see)

    def copies(self) -> Iterator[tuple[str, Tensor]]:
        """Yield the weights that the network computes with, which stage 3 shares out."""
        if self.config.stage < 3:
            yield from ((name, p.detach()) for name, p in self.module.named_parameters())

    def watch(self, watch: Watch) -> None:
        """Have `watch` time calls of DeepSpeed, and the release of the graph."""
        self._engine = TimedEngine(self._engine, watch)
        # Installed here rather than checked at each call, so that a run without a watch pays nothing.
        self.backward = watch.around_release(self.backward)  # type: ignore[method-assign]

    @property
    def factor(self) -> int:
        """Return the number of ranks, over which DeepSpeed averages."""
        return self.world.size

    @property
    def owned(self) -> list[Shard]:
        """Return the shards; of what every rank has, an even part."""
        if self.config.stage > 0:
            return self.shards
        return share(self.shards, self.world.rank, self.world.size)

    def trainable_shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the whole shape of every trainable parameter."""
        return {name: tuple(getattr(p, "ds_shape", p.shape)) for name, p in self._trained().items()}

    def refresh(self) -> None:
        """Make the network follow `masters`."""
        partitions.publish(self._sharded)

    @property
    def _inner(self) -> torch.optim.Optimizer:
        found = self._sharded if self.config.stage == 0 else self._sharded.optimizer
        assert isinstance(found, torch.optim.Optimizer)
        return found

    @contextlib.contextmanager
    def _whole(self, parameters: list[nn.Parameter], *, write: bool = False) -> Iterator[list[nn.Parameter]]:
        with partitions.gathered(parameters, write=write):
            yield parameters
