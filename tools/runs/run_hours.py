"""Estimate how long a run takes from passes timed for a dry run: steps per second, hours, what they buy."""

from __future__ import annotations

import time

import torch

from core.distributed.ranks import World
from core.memory.counting import Pass, prepare
from core.progress import counted, duration
from tools.runs.memory.run_memory import MemoryOfRun, Planned

LONGEST = 1e13  # numbers of a sample times parameters: up to here a CPU takes seconds
ON_A_GPU = 100  # times that many there
LARGEST = 5e8  # parameters of a network that is built for smaller samples: 4 GB with gradients


def hours_line(memory: MemoryOfRun, world: World, steps: int, epoch: int) -> str:
    """Return the line that says it, by one sample of each shape on this machine's device.

    epoch: samples of an epoch.  Where a pass would take minutes, one over a smaller sample is timed.
    """
    planned = memory.planned[0]
    plan = planned.plan
    most = LONGEST * (ON_A_GPU if world.device.type == "cuda" else 1) / memory.numbers
    is_small = memory.numbers <= LARGEST
    found = {number: _to_time(planned, number, most, is_small=is_small) for number in planned.used}
    timed = {number: each for number, each in found.items() if each is not None}
    if len(timed) < len(found):
        return (
            f"hours: not timed, since a sample takes {world.device.type} too long for a dry run; `longtake "
            "plan` says what GPUs take at least, and training says its own rate after 8 steps"
        )
    dtype = torch.bfloat16 if memory.engine.precision == "bf16" else torch.float32
    groups = plan.config.groups_per_step
    step_s = samples = 0.0
    for number, (make, times) in timed.items():
        share = groups * plan.weights[number]
        seconds = times * pass_seconds(make, dtype, world.device)
        step_s += share * plan.share(number) * seconds / memory.engine.sequence_parallel
        samples += share * plan.group_sizes[number]
    epochs = f", {steps * samples / epoch:.3g} epochs of {epoch:,}" if epoch else ""
    smaller = max(times for _, times in timed.values())
    how = "single samples" if smaller == 1 else f"samples of down to 1/{smaller:.3g} of the work"
    return (
        f"hours: {1 / step_s:.3g} steps per second by {how} timed here on {world.device.type}, so "
        f"{duration(steps * step_s)} for {counted(steps, 'step')}; in the end {round(steps * samples):,} "
        f"samples seen{epochs}; after 8 steps training says its own rate"
    )


def _to_time(planned: Planned, number: int, most: float, *, is_small: bool) -> tuple[Pass, float] | None:
    """Return a pass to be timed, and how many times its work a sample is; None where each takes too long.

    is_small: whether the network may be built for a smaller sample.
    """
    if torch.Size(planned.shapes[number]).numel() <= most:
        return planned.passes(number, 1), 1.0
    return planned.smaller(number, most) if is_small and most >= 1 else None


def pass_seconds(make: Pass, dtype: torch.dtype, device: torch.device) -> float:
    """Return the seconds of a forward and backward pass that belongs to no run, after one to warm up."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices), device:
        model, loss = make()
        prepare(model, dtype)
        took = []
        for _ in range(2):
            start = time.perf_counter()
            loss().backward()
            if devices:
                torch.cuda.synchronize(device)
            took.append(time.perf_counter() - start)
        return took[-1]
