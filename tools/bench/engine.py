"""Measure what this project's layer adds to a training step, beside engine, network and averages.

A real run of the trainer on latents that lie in memory. A stopwatch runs in every call of the library
(the network's forward and backward, the step, and what is asked of it), while the network's graph is freed,
and inside the update of the averages; what is left of a step is ours: taking a batch from the thread that
reads ahead, the objective's arithmetic, weights and their sum over ranks, flags, metrics. On a CPU that
thread also makes draws and the network's input, as in training; the time of that alone is reported beside.
Before and after the run the same network is trained by a loop without any engine (`bare_loop`).
"""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from core.averages.ema import EmaConfig
from core.batch import Batch, Condition
from core.diffusion.objectives.config import ObjectiveConfig
from core.distributed import ranks
from core.distributed.agreement import order_hash, tally
from core.engine.config import EngineConfig
from core.losses import Objective
from core.metrics import hardware
from core.optim.groups import OptimizerConfig
from core.train.config import TrainerConfig
from core.train.single import SingleStepper
from core.train.trainer import Trainer
from core.train.training_data import TrainingData
from data.latent.normalising import Normaliser
from data.loading.ahead import read_ahead
from data.order.steps import LoaderConfig
from models.denoisers.dit import DiT, DiTConfig
from tools.bench.bare_loop import seconds_of_steps
from tools.bench.job import Config, Kind
from tools.bench.rounds import Floor, Row, Timing
from tools.train import prepared
from tools.train.objective import LatentObjective

NETWORK = DiTConfig(width=128, depth=8, heads=2)
SHAPE = (8, 2, 4, 1, 16, 16)  # moments of 8 latents, 64 tokens each
STEPS, WARM_UP = 200, 20
NAMES, STAGES = {"deepspeed": "DeepSpeed", "fsdp2": "FSDP2"}, {"deepspeed": 1, "fsdp2": 2}
REST = {kind: f"{name}, network and average alone" for kind, name in NAMES.items()}
BARE = "a bare loop"
OWN_MS, OWN_SHARE = 0.3, 0.02


class Stopwatch:
    """Seconds spent inside the functions it was put around, as a `Watch` of a trainer.

    On a CPU it does next to nothing beside them, since what it does counts as ours.
    steps_s: of every step.  own_s: of them those outside of these functions, which are ours.  parts_s: those
    inside, by function.
    """

    def __init__(self, device: torch.device) -> None:
        self._device, self.seconds = device if device.type == "cuda" else None, 0.0
        self.steps_s: list[float] = []
        self.own_s: list[float] = []
        self.parts_s: list[dict[str, float]] = []
        self._parts: dict[str, float] = {}

    @contextlib.contextmanager
    def step(self) -> Iterator[None]:
        """Measure a step."""
        self._parts = {}
        self.seconds, started = 0.0, time.perf_counter()
        yield
        self.steps_s.append(time.perf_counter() - started)
        self.own_s.append(self.steps_s[-1] - self.seconds)
        self.parts_s.append(self._parts)

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return `function`, timed; on CUDA up to the end of what it started."""
        name = getattr(function, "__qualname__", "forward")  # a module, or DeepSpeed's engine
        if self._device is None:
            return self._timed(function, name)
        return self._timed_on(self._device, function, name)

    def _timed(self, function: Callable[..., Any], name: str) -> Callable[..., Any]:
        def timed(*arguments: Any, **options: Any) -> Any:
            started = time.perf_counter()
            result = function(*arguments, **options)
            passed = time.perf_counter() - started
            self.seconds += passed
            self._parts[name] = self._parts.get(name, 0.0) + passed
            return result

        return timed

    def _timed_on(self, device: torch.device, function: Callable[..., Any], name: str) -> Callable[..., Any]:
        def finished(*arguments: Any, **options: Any) -> Any:
            result = function(*arguments, **options)
            hardware.wait(device)
            return result

        timed = self._timed(finished, name)

        def begun_alone(*arguments: Any, **options: Any) -> Any:
            hardware.wait(device)
            return timed(*arguments, **options)

        return begun_alone

    def around_release(self, function: Callable[..., Any]) -> Callable[..., None]:
        """Return `function` with only the release of its argument timed, to which nothing else refers."""

        def timed(*argument: Any, **options: Any) -> None:
            function(*argument, **options)
            started = time.perf_counter()
            del argument
            self.seconds += time.perf_counter() - started

        return timed


def rows(config: Config, folder: Path) -> list[Row]:
    """Measure the one case: an engine at its least sharded stage, one rank, one micro-step a step."""
    world, kind = ranks.start(), config.kind
    bare = partial(seconds_of_steps, loss=_bare_loss(world.device), steps=max(WARM_UP, STEPS // 4))
    try:
        around = bare(_network().to(world.device))[WARM_UP // 2 :]
        trainer, watch = _trainer(folder, world, max(2 * WARM_UP, STEPS * config.rounds // 8), kind)
        trainer.fit()
        around += bare(_network().to(world.device))[WARM_UP // 2 :]
    finally:
        ranks.stop(world)
    steps, own = watch.steps_s[WARM_UP:], watch.own_s[WARM_UP:]
    row = Row(
        f"a step of a DiT of width {NETWORK.width}, depth {NETWORK.depth}, batch {SHAPE[0]}",
        "steps",
        f"{len(steps)} steps of a run by {NAMES[kind]}, ZeRO {STAGES[kind]}, bf16, clipping, one average, "
        "rows written every 10 steps; floors look at the median step, since a row is written in every tenth",
        {
            "longtake": _timing(steps),
            REST[kind]: _timing(_less(steps, own)),
            BARE: _timing(around),
        },
    )
    row.facts = {
        "our ms a step, median": 1e3 * statistics.median(own),
        "our ms a step, mean": 1e3 * statistics.fmean(own),
        "our ms a step, least": 1e3 * min(own),
        "draws and the network's input, ms, least, by themselves": 1e3
        * min(_preparing_s(step_index) for step_index in range(50)),
    }
    parts = watch.parts_s[WARM_UP:]
    for name in parts[-1]:
        row.facts[f"of it in {name}, ms, median"] = 1e3 * statistics.median(p.get(name, 0.0) for p in parts)
    share = statistics.median(own) / statistics.median(steps)
    row.floors = [
        Floor("our ms a step", row.facts["our ms a step, median"], OWN_MS, at_most=True),
        Floor("our share of a step", share, OWN_SHARE, at_most=True),
    ]
    return [row]


def _network() -> DiT:
    torch.manual_seed(0)
    return DiT(NETWORK)


def _bare_loss(device: torch.device) -> Callable[[nn.Module], Tensor]:
    """Return the loss of flow matching on one batch, as few operations as there are."""
    number, sizes = SHAPE[0], SHAPE[2:]
    x, noise = torch.randn(2, number, *sizes, device=device)
    label = torch.arange(number, device=device) % NETWORK.num_classes

    def loss(network: nn.Module) -> Tensor:
        t = torch.rand(number, device=device)
        weight = t.view(-1, 1, 1, 1, 1)
        out = network((1 - weight) * x + weight * noise, 1000 * t, Condition(label=label))
        return (out - (noise - x)).square().mean()

    return loss


def _preparing_s(step_index: int) -> float:
    """Return the seconds that the read-ahead thread takes to prepare one batch."""
    (batch,) = _load(step_index)
    started = time.perf_counter()
    prepared.prepare(_objective(), batch, 0, step_index)
    return time.perf_counter() - started


def _less(steps: list[float], own: list[float]) -> list[float]:
    return [whole - part for whole, part in zip(steps, own, strict=True)]


def _timing(seconds: list[float]) -> Timing:
    return Timing(1, tuple(seconds), 1 / min(seconds), 1 / statistics.median(seconds))


def _trainer(
    folder: Path, world: ranks.World, steps: int, kind: Kind = "deepspeed"
) -> tuple[Trainer, Stopwatch]:
    from core.engine.kinds import make_engine

    engine = make_engine(
        _network(), EngineConfig(kind=kind, zero_stage=STAGES[kind]), OptimizerConfig(), world
    )
    objective: Objective = (plain := _objective())
    ahead = LoaderConfig().prefetch
    batches: Callable[[int], Iterator[list[Batch]]] = partial(read_ahead, _load, depth=ahead)
    if world.device.type == "cpu":
        batches, objective = prepared.batches(_load, ahead, plain, seed=0), prepared.PreparedObjective(plain)
    data = TrainingData(batches=batches, work_of=lambda batch: (64 * len(batch), 1e9 * len(batch)))
    trainer = Trainer(
        SingleStepper(engine, objective, EmaConfig()),
        data,
        TrainerConfig(steps=steps, save_every=10 * steps),
        folder=folder,
        seed=0,
    )
    watch = Stopwatch(world.device)
    trainer.watch(watch)
    return trainer, watch


def _objective() -> LatentObjective:
    normaliser = Normaliser((0.0,) * SHAPE[2], (1.0,) * SHAPE[2])
    return LatentObjective(ObjectiveConfig(), normaliser, frame_condition=False)


def _load(step_index: int) -> list[Batch]:
    number = SHAPE[0]
    moments = torch.randn(SHAPE, generator=torch.Generator().manual_seed(step_index)).half()
    position, weight = torch.arange(number), torch.ones(number)
    ids = position + number * step_index
    whole = order_hash(step_index, ids.numpy(), position.numpy())
    condition = Condition(label=position % NETWORK.num_classes)
    batch = Batch(moments, ids, position, weight, condition, order_hash=whole)
    return [replace(batch, tally=tally(step_index, batch))]
