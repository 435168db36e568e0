"""The parts of a training run's memory, and how much each shape takes."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from core import environment
from core.distributed.outcomes import least_of_ranks, tally_of_ranks
from core.distributed.ranks import World
from core.engine.config import EngineConfig
from core.environment import ranks_on_node
from core.memory.counting import SMALL, Pass, device_peak, live_bytes
from core.memory.free import Free, free_memory
from core.memory.fsdp_state import FsdpState
from core.memory.micro_batch import Measured
from core.memory.state import ParameterGroup, TrainingState
from core.optim.groups import OptimizerConfig, parameter_groups
from data.order.steps import StepPlan
from models.weights import shapes_only


def groups_of(build: Callable[[], nn.Module], optimizer: OptimizerConfig) -> list[ParameterGroup]:
    """Return the groups of trainable parameters of the network that `build` makes, over shapes alone."""
    with shapes_only():
        groups = parameter_groups(build(), optimizer)
    return [
        ParameterGroup(
            [tuple(p.shape) for p in g["params"]],
            g.get("rule") == "muon",
            [found[0] if (found := re.match(r"blocks\.\d+", name)) else "" for name in g["names"]],
        )
        for g in groups
    ]


def state_of(
    groups: Sequence[ParameterGroup], engine: EngineConfig, ranks: int, on_node: int, **more: int
) -> TrainingState:
    """Return what decides the state of training on a rank.

    on_node: ranks of a node.  more: averages and copies for checkpoints, as `TrainingState` has them.
    """
    known: dict[str, Any] = {
        "groups": groups,
        "zero_stage": engine.stage,
        "bf16": engine.precision == "bf16",
        "fp32_sums": engine.gradient_dtype == "fp32",
        "fp32_reduced": engine.reduces_in_fp32(ranks),
        **more,
    }
    if engine.kind == "fsdp2":
        copy = engine.copy_ranks(ranks, on_node)
        replicas, last = ranks // copy, engine.reduce == "last"
        return FsdpState(ranks=copy, replicas=replicas, reduces_last=last, **known)
    return TrainingState(ranks=ranks, **known)


def own_bytes(
    own: Sequence[ParameterGroup], engine: EngineConfig, ranks: int, on_node: int, *, saves: int = 0
) -> dict[str, int]:
    """Return the bytes on a rank of the state of an objective's own parameters; {} where there are none.

    on_node: ranks of a node.  saves: copies for checkpoints in the same memory.
    """
    if not own:
        return {}
    plain = replace(engine, precision="fp32", gradient_dtype="fp32")
    state = state_of(own, plain, ranks, on_node, averages=0, saves=saves)
    return {"objective's own parameters": sum(state.parts().values())}


def teacher_bytes(groups: Sequence[ParameterGroup], engine: EngineConfig) -> dict[str, int]:
    """Return the bytes on a rank of the fixed network that a run of these groups distils."""
    numbers = sum(group.numbers for group in groups)
    return {"network that is distilled": numbers * (2 if engine.precision == "bf16" else 4)}


def free_of_ranks(world: World, peers: int = 0) -> Free:
    """Return what the rank has free that has the least (collective, unless `peers` ranks share it)."""
    device = None
    if world.device.type == "cuda":
        torch.cuda.empty_cache()
        device = torch.cuda.mem_get_info(world.device)[0]
    if not peers:
        peers = tally_of_ranks([environment.node()])[environment.node()]
    found: Free = least_of_ranks(free_memory(device, peers=peers))
    return found


NOTHING = Measured([0], [0])  # of a shape that gives no groups


@dataclass(frozen=True)
class Planned:
    """A plan whose micro-batches are to be chosen.

    name: `train` or `validation`.  shapes: of a sample of each bucket as it is loaded.
    passes: of the number of a bucket and of samples, a forward and backward pass.
    over_shapes: of the number of a bucket, its activations on a device where nothing is computed; None where
    passes are counted for that.  beside: bytes of a sample of each bucket that are loaded beside it; () none.
    smaller: of the number of a bucket and the most numbers of a sample, a pass over a smaller sample, and how
    many times that work one of the bucket is; None where there is none.
    """

    name: str
    plan: StepPlan
    shapes: Sequence[tuple[int, ...]]
    passes: Callable[[int, int], Pass]
    over_shapes: Callable[[int, torch.device], Measured] | None = None
    beside: Sequence[int] = ()
    smaller: Callable[[int, float], tuple[Pass, float] | None] = lambda bucket, most: None

    @property
    def names(self) -> list[str]:
        return [bucket.name for bucket in self.plan.buckets]

    @property
    def used(self) -> list[int]:
        """The buckets that give groups."""
        return [number for number, weight in enumerate(self.plan.weights) if weight > 0]

    def sizes(self) -> list[int]:
        """Return the most samples of each bucket that are taken at once."""
        return [self.plan.micro_batches(number)[0] for number in range(len(self.plan.buckets))]


@dataclass(frozen=True)
class MemoryOfRun:
    """The parts of a run's memory on a rank.

    prefetch: steps of samples that are read ahead.  own: parameters of the objective, in fp32, of which there
    are no averages.  teaches: whether a fixed network like the run's, whole on every rank, is distilled.
    """

    engine: EngineConfig
    groups: Sequence[ParameterGroup]
    averages: int
    prefetch: int
    planned: Sequence[Planned]
    own: Sequence[ParameterGroup] = ()
    teaches: bool = False

    @property
    def numbers(self) -> int:
        """Trainable numbers of the network."""
        return sum(group.numbers for group in self.groups)

    def parts(self, world: World) -> dict[str, int]:
        """Bytes of a rank by part, activations left out."""
        return {**self.state(world).parts(), **self.objective(world), **self.read_ahead(world)}

    def objective(self, world: World) -> dict[str, int]:
        """Bytes of the state of the objective's own parameters, and of a teacher."""
        saves, on_node = int(world.device.type == "cpu"), ranks_on_node(world.size)
        taught = teacher_bytes(self.groups, self.engine) if self.teaches else {}
        return own_bytes(self.own, self.engine, world.size, on_node, saves=saves) | taught

    def read_ahead(self, world: World) -> dict[str, int]:
        """Bytes of samples that lie in the same memory as tensors: they are sent to a GPU ahead, pixels as
        bytes.
        """
        are_bytes = world.device.type != "cpu" and self.planned[0].over_shapes is None
        return {"samples read ahead": (self.prefetch + 1) * self._step_bytes(1 if are_bytes else 4)}

    def update_excess(self, world: World) -> int:
        """Bytes that an update takes where passes have their activations."""
        return self.state(world).update_excess()

    def state(self, world: World) -> TrainingState:
        """Return what decides the state of training on a rank."""
        saves = int(world.device.type == "cpu")  # elsewhere the copy lies in the host's memory
        ranks, on_node = world.size, ranks_on_node(world.size)
        return state_of(self.groups, self.engine, ranks, on_node, averages=self.averages, saves=saves)

    def measure(self, device: torch.device, most: int | None) -> list[list[Measured]]:
        """Bytes of one and of two samples of every shape of every plan; nothing of buckets without groups.

        On a GPU a pass that would take more than `most` bytes is counted over shapes alone.
        """
        return [
            [
                self._measure(planned, number, device, most) if number in planned.used else NOTHING
                for number in range(len(planned.shapes))
            ]
            for planned in self.planned
        ]

    def _measure(self, planned: Planned, bucket: int, device: torch.device, most: int | None) -> Measured:
        dtype = torch.bfloat16 if self.engine.precision == "bf16" else torch.float32
        one, two = planned.passes(bucket, 1), planned.passes(bucket, 2)
        size = 2 * torch.Size(planned.shapes[bucket]).numel()
        fake = device.type != "cpu" or size * self.numbers > SMALL
        if fake and planned.over_shapes is not None:
            counted = planned.over_shapes(bucket, device)
            found = [list(counted.one), list(counted.two)]
        else:
            found = [live_bytes(make, dtype=dtype, device=device, fake=fake) for make in (one, two)]
        if device.type == "cuda" and (most is None or max(found[1]) + self.numbers * dtype.itemsize < most):
            found = [device_peak(make, dtype=dtype, device=device) for make in (one, two)]
        shared = self.engine.sequence_parallel  # each of these ranks holds its share of the tokens
        return Measured(*([count // shared for count in trace] for trace in found))

    def _step_bytes(self, of_number: int) -> int:
        plan, shapes = self.planned[0].plan, self.planned[0].shapes
        of_sample = [of_number * torch.Size(shape).numel() for shape in shapes]
        for number, more in enumerate(self.planned[0].beside):
            of_sample[number] += more
        group = max(plan.share(n) * of_sample[n] for n in self.planned[0].used)
        return group * plan.config.groups_per_step
