"""Time micro-batches of every shape on the device at hand, and choose groups that take the same time there.

One process stands for a rank, with the run's own engine and averages: it computes what a rank computes and
sends nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from core.distributed import ranks
from core.distributed.ranks import World
from core.errors import UserError, WorkError, below
from core.memory.free import USABLE, free_memory
from core.memory.micro_batch import Measured
from core.memory.micro_batch import choose as most_that_fit
from core.metrics.devices import by_driver, by_name
from core.metrics.hardware import device_name
from core.progress import size as in_bytes
from data.order.buckets import GroupConfig
from tools.plan import memory
from tools.plan.measuring import cost_model
from tools.plan.measuring.cost_model import CostModel, Point
from tools.plan.measuring.even_groups import EVEN, Choice, GroupTimes, choose, even_size, spread
from tools.plan.measuring.stopwatch import Sections, Size, Stopwatch
from tools.plan.step_samples import Workload
from tools.runs.memory.engine_choices import alone
from tools.runs.memory.run_memory import groups_of, state_of

PASSES = 4  # at most; each times the groups that the passes before it led to


@dataclass(frozen=True)
class Measurement:
    """The measured times, and the group sizes that follow from them.

    device: its name.  times, flops: of each micro-batch, forward and backward.  error: the largest relative
    one of the model at these.  before: of a rank's share of a group of each bucket, with the configured
    sizes, and seconds with those of `choice`.  at_once: samples that a rank takes at once of these.
    spread_before, predicted_before: of the configured groups.  spread: of the chosen ones, of which `choice`
    has the predicted one.  even_size: a `group_size` that would be even where these are not, if one is known.
    update: of an optimizer step with its averages, all of the state on this one device.
    """

    device: str
    times: Mapping[Size, float]
    flops: Mapping[Size, float]
    model: CostModel
    error: float
    choice: Choice
    at_once: Sequence[int]
    before: Sequence[float]
    seconds: Sequence[float]
    spread_before: float
    predicted_before: float
    spread: float
    even_size: int | None
    update: float


def measure(sections: Sections, work: Workload, data: GroupConfig, named: str) -> Measurement:
    """Time micro-batches of all buckets, choose groups by them, and time those.

    Passes go on until the measured group times spread by at most EVEN, or PASSES are over; the
    most even groups are returned. A size that is timed again adds to its earlier times.
    named: the device that is planned for, '' for this machine's.
    """
    engine = sections.engine
    if engine.sequence_parallel > 1:
        expected = "1 with action=measure, where one device stands for a rank"
        raise UserError("engine.sequence_parallel", engine.sequence_parallel, expected)
    with below("engine"):
        world = ranks.start(engine.device, engine.timeout_s)
    try:
        _require_here(named, device_name(world.device))
        sections = replace(sections, engine=alone(engine, world.device.type))  # the device stands for a rank
        with TemporaryDirectory(prefix="longtake-") as folder:
            fitting = Fitting.of(sections, work, world)
            return _passes(Stopwatch(sections, work, world, Path(folder)), fitting, work, data, world)
    finally:
        ranks.stop(world)


def _require_here(named: str, here: str) -> None:
    if named and by_driver(here) is not by_name(named):
        expected = f"'' with action=measure, which measures the device at hand, {here}"
        raise UserError("plan.device", named, expected)


@dataclass(frozen=True)
class Fitting:
    """How many samples of a bucket fit this device at once. room: bytes that activations may take."""

    micro_batch: int | Literal["auto"]
    room: int
    activations: Sequence[Measured]

    @classmethod
    def of(cls, sections: Sections, work: Workload, world: World) -> Fitting:
        """Count activations over shapes; WorkError where not even one sample of each bucket fits."""
        engine = sections.engine
        groups = groups_of(sections.model.build, sections.optimizer)
        state = state_of(groups, engine, 1, 1, averages=len(sections.ema.names)).parts()
        free = free_memory(_free_bytes(world))
        room = int(USABLE * free.bytes) - sum(state.values())
        counted = memory.activations(sections.model, engine, work, engine.activation_checkpointing)
        if (least := max(each.bytes(1) for each in counted)) > room:
            needed = in_bytes(sum(state.values()) + least)
            raise WorkError(
                f"to measure takes {needed} on one device, and {USABLE:.0%} of the {in_bytes(free.bytes)} "
                f"that are free in {free.of} may be taken; measure a run of fewer parameters, or with more "
                "activation checkpointing"
            )
        return cls(engine.micro_batch, room, counted)

    def at_once(self, bucket: int, share: int) -> int:
        """Return how many samples of a rank's share it takes at once, as training chooses them."""
        if self.micro_batch != "auto":
            return min(self.micro_batch or share, share)
        return most_that_fit(share, self.activations[bucket], self.room)


def _passes(
    stopwatch: Stopwatch, fitting: Fitting, work: Workload, data: GroupConfig, world: World
) -> Measurement:
    tokens, shares = ([getattr(b, name) for b in work.buckets] for name in ("tokens", "share"))
    times: dict[Size, float] = {}

    def timed(parts: Sequence[int], number: int) -> list[float]:
        wanted = [size for b, part in enumerate(parts) for size in _sizes(b, part, fitting)]
        if number == 0:  # other sizes too, to tell what a micro-batch takes from what its samples take
            wanted += [Size(b, max(1, fitting.at_once(b, part) // 2)) for b, part in enumerate(parts)]
        times.update(stopwatch.time(list(dict.fromkeys(wanted)), number))
        return [sum(times[size] for size in _sizes(b, part, fitting)) for b, part in enumerate(parts)]

    configured = [bucket.group for bucket in work.buckets]
    before = timed([size // work.data_ranks for size in configured], 0)
    best: Measurement | None = None
    latest: tuple[list[int], list[float]] | None = None
    for number in range(1, PASSES + 1):
        points = [Point(size.samples, tokens[size.bucket], seconds) for size, seconds in times.items()]
        model = cost_model.fit(points)
        plain = GroupTimes(model, tokens, fitting.at_once, shares, work.data_ranks)
        groups = plain.corrected(*latest) if latest else plain
        choice = choose(groups, data)
        parts = [size // work.data_ranks for size in choice.sizes]
        seconds = timed(parts, number)
        latest = choice.sizes, seconds
        found = Measurement(
            device=device_name(world.device),
            times=dict(times),
            flops={size: stopwatch.flops(size) for size in times},
            model=model,
            error=cost_model.error_of(model, points),
            choice=choice,
            at_once=[fitting.at_once(b, part) for b, part in enumerate(parts)],
            before=before,
            seconds=seconds,
            spread_before=spread(before, shares),
            predicted_before=plain.spread(configured),
            spread=spread(seconds, shares),
            even_size=None if choice.spread <= EVEN else even_size(groups, data),
            update=stopwatch.update,
        )
        best = found if best is None or found.spread < best.spread else best
        if best.spread <= EVEN or len(work.buckets) == 1:
            break
    assert best is not None
    return replace(best, update=stopwatch.update)


def _sizes(bucket: int, share: int, fitting: Fitting) -> list[Size]:
    """Return the micro-batches of a rank's share of a group, in order."""
    most = fitting.at_once(bucket, share)
    return [Size(bucket, min(most, share - first)) for first in range(0, share, most)]


def _free_bytes(world: World) -> int | None:
    """Return the bytes that are free on a GPU; None for a CPU."""
    if world.device.type != "cuda":
        return None
    import torch

    return int(torch.cuda.mem_get_info(world.device)[0])
