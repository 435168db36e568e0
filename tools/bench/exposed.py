"""Measure a step of each engine: its time, its memory, communication that nothing hides, and idle time.

`torchrun --nproc_per_node=N -m tools.bench.exposed [PRESET [BATCH]]`, on one GPU or more or, to try it, over
gloo. On GPUs each engine is measured as its network is written and compiled, where a compiler is.

torch's profiler says when operations ran. Communication is NCCL's kernels on a GPU and gloo's operations on a
CPU; exposed is what of it lies outside of all other operations: of kernels on a GPU, of any thread on a CPU.
Idle is when none of either ran between the first and the last: gaps in which a GPU waited for its host.
Numbers are the first rank's; alone it communicates with nobody.
"""

from __future__ import annotations

import gc
import statistics
import sys
import time
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from core import terminal
from core.distributed import ranks
from core.engine.compiling import lacks_compiler, warm_up
from core.engine.config import EngineConfig
from core.engine.engine import Engine
from core.engine.kinds import make_engine
from core.first_values.recording import without_weights
from core.metrics import hardware
from core.optim.groups import OptimizerConfig
from core.progress import counted
from core.run.ending import end_with
from models.denoisers.dit import DiTConfig
from models.denoisers.network import Example, example_inputs
from tools.bench.rounds import Row, Timing, table
from tools.train.network import compile_for

ENGINES: tuple[tuple[Any, int], ...] = (
    *(("deepspeed", stage) for stage in range(4)),
    *(("fsdp2", stage) for stage in (2, 3)),
)
WARM_UP, STEPS = 3, 8
SIDE = 32  # rows and columns of latents

Interval = tuple[float, float]


def main() -> None:
    """Measure every engine in turn and print a table: PRESET, and samples on each rank, may be given."""
    world = ranks.start()
    on_gpu = world.device.type == "cuda"
    name, batch = ("DiT-XL/2", 64) if on_gpu else ("DiT-S/8", 1)
    name, batch = (sys.argv[1], batch) if len(sys.argv) > 1 else (name, batch)
    batch = int(sys.argv[2]) if len(sys.argv) > 2 else batch
    network = replace(DiTConfig.presets[name], preset=name, attention="sdpa")
    example = example_inputs(network, (batch, network.input_channels, 1, SIDE, SIDE), world.device)
    ways = (False, True) if on_gpu and not lacks_compiler("cuda") else (False,)
    found = [
        _row(network, example, world, EngineConfig(kind=kind, zero_stage=stage, compile=is_compiled))
        for kind, stage in ENGINES
        for is_compiled in ways
    ]
    ranks.stop(world)
    if world.rank == 0:
        terminal.tell(table(found), to="stdout")


def _row(network: DiTConfig, example: Example, world: ranks.World, settings: EngineConfig) -> Row:
    gc.collect()  # the engine before has cycles
    on_gpu, facts = world.device.type == "cuda", dict[str, float]()
    if on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    torch.manual_seed(0)
    model = without_weights(network.build)
    engine = make_engine(model, settings, OptimizerConfig(), world)
    if settings.compiles:
        started = time.perf_counter()
        compile_for(settings, model)
        facts["graphs compiled"] = float(warm_up(engine, [example]))
        facts["compiling them, s"] = time.perf_counter() - started
    for _ in range(WARM_UP):
        _step(engine, example)
    seconds = []
    for _ in range(STEPS):
        started = time.perf_counter()
        _step(engine, example)
        seconds.append(time.perf_counter() - started)
    if on_gpu:
        facts["peak of allocated memory, GB"] = torch.cuda.max_memory_allocated() / 1e9
    shown = f"{settings.kind}, ZeRO {settings.stage}{', compiled' if settings.compile else ''}"
    return Row(
        f"{shown}, {network.preset}, {counted(len(example[0]), 'sample')} on each of "
        f"{counted(world.size, 'rank')}",
        "steps",
        "of one more step, by the profiler",
        {"longtake": Timing(1, tuple(seconds), 1 / min(seconds), 1 / statistics.median(seconds))},
        facts=facts | _profiled(engine, example),
    )


def _profiled(engine: Engine, example: Example) -> dict[str, float]:
    """Return how long ranks communicate in one more step, how much of it nothing hides, and idle time."""
    device = engine.world.device.type
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device == "cuda" else [])]
    with profile(activities=activities) as seen:
        _step(engine, example)
    events = seen.events() or []
    sent, alone = exposed_us(events, device)
    found = {"communication": sent, "of it exposed": alone, "idle": idle_us(events, device)}
    return {f"{name}, ms": microseconds / 1e3 for name, microseconds in found.items()}


def _step(engine: Engine, example: Example) -> None:
    engine.backward(engine(*example).square().mean())
    engine.step(1e-4)
    hardware.wait(engine.world.device)


def exposed_us(events: Iterable[Any], device: str) -> tuple[float, float]:
    """Return how long ranks communicated by these events, and for how long of it nothing was computed."""
    sent, computed = _intervals(events, device)
    return _length(_merged(sent)), _length(_merged([*sent, *computed])) - _length(_merged(computed))


def idle_us(events: Iterable[Any], device: str) -> float:
    """Return for how long nothing ran by these events, from the first operation to the last."""
    sent, computed = _intervals(events, device)
    busy = _merged([*sent, *computed])
    return busy[-1][1] - busy[0][0] - _length(busy) if busy else 0.0


def _intervals(events: Iterable[Any], device: str) -> tuple[list[Interval], list[Interval]]:
    """Return when ranks communicated and when anything was computed, in microseconds."""
    sent, computed = [], []
    for event in events:
        if (event.device_type.name == "CUDA") != (device == "cuda"):
            continue
        interval, name = (event.time_range.start, event.time_range.end), event.name.lower()
        if "nccl" in name or name.startswith("gloo:"):
            sent.append(interval)
        elif device == "cuda" or (name.startswith("aten::") and not event.cpu_children):
            computed.append(interval)
    return sent, computed


def _merged(intervals: Iterable[Interval]) -> list[Interval]:
    """Return the union of intervals as ones that do not meet, in order."""
    found: list[Interval] = []
    for start, end in sorted(intervals):
        if found and start <= found[-1][1]:
            found[-1] = found[-1][0], max(end, found[-1][1])
        else:
            found.append((start, end))
    return found


def _length(intervals: Iterable[Interval]) -> float:
    return sum(end - start for start, end in intervals)


if __name__ == "__main__":
    end_with(main)
