"""One engine for ZeRO stages 0 to 3, on CPU and CUDA: forward, N backwards, one step, by DeepSpeed.

DeepSpeed shards, reduces and updates. This engine adds what its defaults do not give: clipping that is always
set explicitly, fp32 masters that start from the fp32 weights, gradients of micro-steps added up in fp32, a
non-finite step skipped on all ranks at every stage and precision, timeouts on its own process groups, and no
C++ build.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from core.distributed import ranks
from core.distributed.ranks import World
from core.engine import partitions
from core.engine.accumulate import MicroStepSum
from core.engine.config import EngineConfig, deepspeed_config
from core.engine.deepspeed_loading import load_deepspeed
from core.engine.first_weights import agree, cast_parameters, on_host
from core.engine.optimizer import allocate_state, make_optimizer, share_matrices
from core.engine.shards import Cut, Shard, present, require_cuts, share, share_cuts
from core.metrics.watch import TimedEngine, Watch
from core.optim.groups import OptimizerConfig, parameter_groups


@dataclass(frozen=True)
class StepResult:
    """grad_norm: over all parameters, before clipping; inf when skipped.  applied: False when skipped.

    lr: the learning rate of the update.
    """

    grad_norm: float
    applied: bool
    lr: float


class Engine:
    """A network under training (construction is collective: all ranks, in the same order).

    module: the network.  masters: this rank's fp32 weights, which the optimizer updates, as flat tensors.
    shards: which range of which parameter lies where in them.  cuts: how `owned` is cut over all ranks.
    updates: optimizer updates applied so far.
    data_ranks: how many ranks, or groups of ranks, hold different samples.
    is_constant: whether the network is a fixed function now (`restoring.constant`).
    """

    def __init__(
        self, model: nn.Module, engine: EngineConfig, optimizer: OptimizerConfig, world: World
    ) -> None:
        self.config, self.optimizer, self.world = engine, optimizer, world
        self.updates, self.data_ranks = 0, world.size // engine.sequence_parallel
        self.is_constant = False
        groups = parameter_groups(model, optimizer)
        self._groups = [{**group, "params": []} for group in groups]
        parameters = [p for group in groups for p in group["params"]]
        ranks.barrier()  # all ranks enter the collectives below together
        agree(model, world)
        initial = on_host(model) if engine.precision == "bf16" else {}
        if engine.stage == 0 and engine.precision == "bf16":
            cast_parameters(model, torch.bfloat16)
        self._engine = load_deepspeed(world.device).initialize(
            args=SimpleNamespace(device_rank=world.device.index or 0),
            model=model,
            model_parameters=groups,
            optimizer=lambda parameters: make_optimizer(parameters, engine, optimizer),
            config=deepspeed_config(engine, sum(p.numel() for p in parameters)),
            dist_init_required=False,
        )[0]
        if engine.stage == 0:
            self._engine.enable_backward_allreduce = False  # Replicated reduces, once a step, in fp32
        # DeepSpeed then raises where a backward pass that another engine began would enter this one's.
        self._engine._support_torch_style_backward = False
        self._micro_steps = MicroStepSum(parameters) if engine.sums_micro_steps else None
        ranks.set_timeouts(engine.timeout_s)
        self.module: nn.Module = model
        self._sharded: Any = self._engine.optimizer
        self._inner: torch.optim.Optimizer = self._sharded if engine.stage == 0 else self._sharded.optimizer
        self.masters: list[Tensor] = partitions.masters(self._sharded)
        self.shards: list[Shard] = partitions.locate(self._sharded, model, world.rank)
        cuts = partitions.cuts(self._sharded, model)
        share_matrices(self._inner, self.masters, self.shards, cuts, engine, world)
        self.cuts: list[Cut] = cuts if engine.stage > 0 else share_cuts(self.shards, world.size)
        require_cuts(self.cuts, self.owned, world.rank)
        allocate_state(self._inner, self.masters)
        with torch.no_grad():
            for shard in self.shards if initial else []:
                shard.view(self.masters).copy_(initial[shard.name].flatten()[shard.start : shard.stop])

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the network's forward; ZeRO's hooks live here, so training never calls `module` itself."""
        if self.is_constant:  # its output gets no hook that begins a backward pass of this engine
            return self.module(*args, **kwargs)
        return self._engine(*args, **kwargs)

    def backward(self, loss: Tensor) -> None:
        """Add d(loss)/d(parameters) to the gradients; they sum over calls and over ranks until `step`."""
        if self._micro_steps is not None:
            self._micro_steps.before_backward()
        if self.world.size > 1:
            loss = loss * self.world.size  # DeepSpeed averages over ranks
        self._engine.backward(loss)

    def step(self, lr: float, clipping: float | None = None) -> StepResult:
        """Clip and update, or skip on all ranks alike where a gradient is not finite (collective).

        clipping: the largest gradient norm of this step, 0 = any; None takes the config's.
        """
        self._sharded.clip_grad = self.config.gradient_clipping if clipping is None else clipping
        for group in self._inner.param_groups:
            group["lr"] = lr
        if self._micro_steps is not None:
            self._micro_steps.before_step()
        self._engine.step()
        applied = bool(self._engine.was_step_applied())
        self.updates += applied
        return StepResult(float(self._engine.get_global_grad_norm()), applied, lr)

    def watch(self, watch: Watch) -> None:
        """Have `watch` time what is outside this code: DeepSpeed calls, and the release of the graph."""
        self._engine = TimedEngine(self._engine, watch)
        # Installed here rather than checked at each call, so that a run without a watch pays nothing.
        self.backward = watch.around_release(self.backward)  # type: ignore[assignment, method-assign]

    @property
    def owned(self) -> list[Shard]:
        """Return the shards this rank is to write: over all ranks, every element of every parameter once."""
        if self.config.stage > 0:
            return self.shards
        return share(self.shards, self.world.rank, self.world.size)

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

    def trainable_shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the whole shape of every trainable parameter, also where this rank holds no part of it."""
        trainable = [(name, p) for name, p in self.module.named_parameters() if p.requires_grad]
        return {name: tuple(getattr(p, "ds_shape", p.shape)) for name, p in trainable}

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

    def refresh(self) -> None:
        """Make the network follow `masters` after they were written to (collective: all ranks)."""
        partitions.publish(self._sharded)

    def fixed(self) -> dict[str, Tensor]:
        """Return CPU copies of frozen parameters (`frozen/NAME`) and buffers (`buffer/NAME`) (collective)."""
        frozen = [(n, p) for n, p in self.module.named_parameters() if not p.requires_grad]
        with partitions.gathered([p for _, p in frozen]):
            tensors = {f"frozen/{n}": p.detach().cpu().clone() for n, p in frozen}
        return tensors | {f"buffer/{n}": b.detach().cpu().clone() for n, b in self._kept_buffers()}

    @torch.no_grad()
    def set_fixed(self, tensors: dict[str, Tensor]) -> None:
        """Write what `fixed` returned back into the network (collective: all ranks, with equal tensors)."""
        frozen = [(n, p) for n, p in self.module.named_parameters() if not p.requires_grad]
        with partitions.gathered([p for _, p in frozen], write=True):
            for name, p in frozen:
                p.copy_(tensors[f"frozen/{name}"])
        for name, buffer in self._kept_buffers():
            buffer.copy_(tensors[f"buffer/{name}"])

    def full_state(self, weights: list[Tensor] | None = None) -> dict[str, Tensor]:
        """Return all trainable weights, or `weights` (like the masters) instead: whole, fp32, on the CPU.

        Collective: all ranks; the dict is filled on rank 0 and empty elsewhere.
        """
        weights = self.masters if weights is None else weights
        first = self.world.rank == 0
        full: dict[str, Tensor] = {}
        tables = ranks.gather_objects((self.owned, [f.numel() for f in weights]))
        for rank, (shards, sizes) in enumerate(tables):
            parts = _send_to_first(weights, sizes, rank, self.world)
            for shard in present(shards, parts) if first else []:
                whole = full.setdefault(shard.name, torch.empty(shard.shape))
                whole.view(-1)[shard.start : shard.stop] = shard.view(parts).cpu()
        return {name: full[name] for name in self.trainable_shapes() if name in full}

    def _kept_buffers(self) -> list[tuple[str, Tensor]]:
        """Return the buffers that belong to the state: those a module would save."""
        persistent = self.module.state_dict(keep_vars=True).keys()
        return [(n, b) for n, b in self.module.named_buffers() if n in persistent]


def _send_to_first(weights: list[Tensor], sizes: list[int], rank: int, world: World) -> list[Tensor]:
    """Send the tensors of `rank` to rank 0, which returns them."""
    if rank == 0 or world.rank not in (0, rank):
        return weights
    if world.rank == rank:
        for flat in filter(Tensor.numel, weights):
            dist.send(flat.detach().contiguous(), dst=0)
        return weights
    parts = [torch.empty(size, device=world.device) for size in sizes]
    for part in filter(Tensor.numel, parts):
        dist.recv(part, src=rank)
    return parts


def _plain(value: Any) -> bool:
    return value is None or isinstance(value, (bool, int, float, str, list, tuple))
