"""Time micro-batches and the update on one device, with the engine and the averages of a run.

Inputs are random numbers and no weight is left at zero, since GPUs multiply zeros faster than numbers.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from core.averages.ema import Ema, EmaConfig
from core.diffusion.objectives.config import GRADIENT_PASSES
from core.distributed.ranks import World
from core.engine.config import EngineConfig
from core.metrics.hardware import wait
from core.optim.groups import OptimizerConfig
from core.progress import Progress
from models.denoisers.network import DenoiserConfig, Example, example_inputs, train_flops
from tools.plan.step_samples import Workload
from tools.train.network import compile_for, make_network

WARM = 2  # rounds that do not count
LEAST, MOST = 7, 50  # rounds that count
SECONDS = 8.0  # after which no more rounds than LEAST are made
clock = time.perf_counter  # seconds


@dataclass(frozen=True)
class Sections:
    """The sections of a run's config that decide what a micro-batch takes."""

    model: DenoiserConfig
    engine: EngineConfig
    ema: EmaConfig
    optimizer: OptimizerConfig


class Size(NamedTuple):
    """A micro-batch: the number of its bucket, and of its samples."""

    bucket: int
    samples: int


class Stopwatch:
    """A network under training that is called with random inputs.

    What is timed is its forward and backward pass; an objective that takes more than these (`passes`) takes
    so many times as long.
    update: seconds of an optimizer step with its averages, the median of all so far.
    """

    def __init__(self, sections: Sections, work: Workload, world: World, folder: Path) -> None:
        from core.engine.kinds import make_engine  # what it imports takes seconds

        self._work, self._device, self._model = work, world.device, sections.model
        self._passes = work.objective.passes
        shapes: list[tuple[int, ...]] = [(1, *bucket.shape) for bucket in work.buckets]
        network = make_network(sections.model, sections.engine, shapes, world, seed=0, run=folder)
        self._engine = make_engine(network, sections.engine, sections.optimizer, world)
        _leave_no_zeros(self._engine.masters)
        compile_for(sections.engine, network)
        self._ema = Ema(sections.ema, self._engine.masters)
        self._updates: list[float] = []
        self._rounds: list[dict[Size, float]] = []

    @property
    def update(self) -> float:
        return statistics.median(self._updates)

    def flops(self, size: Size) -> float:
        """Return the FLOPs of a micro-batch, without what is computed again."""
        shape = self._work.buckets[size.bucket].shape
        return size.samples * train_flops(self._model, shape[1:], self._work.text_tokens, passes=self._passes)

    def time(self, sizes: Sequence[Size], number: int) -> dict[Size, float]:
        """Return the typical seconds of forward and backward of each micro-batch, earlier calls counted too.

        Every round takes each size once, from another one on each time, and ends with an update. The first
        size of all is taken in every round, and the others are medians of their ratio to it within a round:
        a device that becomes slower as it warms, or that other programs use, does so to both.
        number: of the pass, for a person.
        """
        first = next(iter(self._rounds[0])) if self._rounds else sizes[0]
        taken = tuple(dict.fromkeys((first, *sizes)))
        examples = {size: self._example(size) for size in taken}
        began, what = clock(), f"measure, pass {number + 1}"
        with Progress(MOST + WARM, what, unit="rounds") as progress:
            for turn in range(WARM + MOST):
                begin = turn % len(taken)
                took = {size: self._pass(examples[size]) for size in (*taken[begin:], *taken[:begin])}
                if turn >= WARM:
                    self._rounds.append({size: took[size] for size in taken})
                self._step(counts=turn >= WARM)
                progress.advance()
                if turn + 1 >= WARM + LEAST and clock() - began > SECONDS:
                    break
        usual = statistics.median(each[first] for each in self._rounds)
        usual *= self._passes / GRADIENT_PASSES
        return {size: usual * self._ratio(size, first) for size in sizes}

    def _ratio(self, size: Size, first: Size) -> float:
        return statistics.median(each[size] / each[first] for each in self._rounds if size in each)

    def _example(self, size: Size) -> Example:
        shape = (size.samples, *self._work.buckets[size.bucket].shape)
        _, moment, condition = example_inputs(self._model, shape, self._device, self._work.text_tokens)
        return torch.randn(shape, device=self._device), moment, condition

    def _pass(self, example: Example) -> float:
        wait(self._device)
        began = clock()
        self._engine.backward(self._engine(*example).square().mean())
        wait(self._device)
        return clock() - began

    def _step(self, *, counts: bool) -> None:
        began = clock()
        self._engine.step(lr=0.0)
        self._ema.update(self._engine.masters, max(1, self._engine.updates))
        wait(self._device)
        if counts:
            self._updates.append(clock() - began)


@torch.no_grad()
def _leave_no_zeros(masters: Sequence[Tensor]) -> None:
    """Put numbers where a network begins with zeros, as in gates of blocks: a run soon has some there."""
    for master in masters:
        zeros = master == 0
        master.masked_scatter_(zeros, 0.02 * torch.randn(int(zeros.sum()), device=master.device))
