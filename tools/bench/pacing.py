"""Measure steps beside the paced write of a checkpoint, and steps without one, in turns of some seconds.

The write is the saver's: the same threads, priorities and pace. In the turns without it, it stands still. The
pace is the slowest that the saver takes, so it assumes some time between saves, which is stated.
"""

from __future__ import annotations

import itertools
import shutil
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import IO

import torch

from core.averages.ema import EmaConfig
from core.batch import Batch, Condition
from core.checkpoint.pace import Pace
from core.checkpoint.reader import CheckpointReader
from core.checkpoint.saver import SaveConfig
from core.checkpoint.snapshot import Snapshot
from core.checkpoint.writer import write_checkpoint
from core.diffusion.objectives.config import ObjectiveConfig
from core.distributed import ranks
from core.engine.config import EngineConfig
from core.optim.groups import OptimizerConfig
from core.train.config import TrainerConfig
from core.train.single import SingleStepper
from core.train.trainer import Trainer
from core.train.training_data import TrainingData
from data.latent.normalising import Normaliser
from models.denoisers.dit import DiT, DiTConfig
from tools.bench.rounds import Floor, Row, Timing
from tools.train.objective import LatentObjective

NETWORK = DiTConfig.presets["DiT-S/2"]
SHAPE = (1, 2, 4, 1, 32, 32)  # moments of one latent of 256 tokens
WARM_UP = 5  # steps
BESIDE_S, ALONE_S = 8.0, 4.0  # the turns
ALONE = "a step with no write beside it"
SLOWER = 1.03


class HeldPace(Pace):
    """A pace that can be held between two pieces; it does not make up for the time it was held."""

    def __init__(self, total: int, seconds: float) -> None:
        super().__init__(total, seconds)
        self.goes_on = threading.Event()

    def wrote(self, file: IO[bytes], size: int) -> None:
        super().wrote(file, size)
        started = time.monotonic()
        self.goes_on.wait()
        assert self._begun is not None
        self._begun += time.monotonic() - started


def row(snapshot: Snapshot, world: ranks.World, folder: Path) -> Row:
    """Measure one write of the whole snapshot, with steps of a smaller network beside it and between."""
    trainer = _trainer(folder / "steps", world)
    step = _stepper(trainer)
    for _ in range(WARM_UP):
        step()
    pace = HeldPace(snapshot.bytes, float("inf"))
    path = folder / "step-00000001.paced"
    with ThreadPoolExecutor(1) as pool:
        written = pool.submit(_write, path, snapshot, pace)
        try:
            beside, alone, written_s = _turns(step, written, pace)
        finally:
            pace.hurry()
            pace.goes_on.set()
    written.result()
    CheckpointReader(path).verify()
    shutil.rmtree(path)
    return _as_row(snapshot, pace, beside, alone, written_s)


def _turns(
    step: Callable[[], float], written: Future[None], pace: HeldPace
) -> tuple[list[float], list[float], float]:
    """Return the seconds of steps beside the write and alone, and of the write without the turns between."""
    beside: list[float] = []
    alone: list[float] = []
    written_s = 0.0
    while not written.done():
        pace.goes_on.set()
        started = time.monotonic()
        while not written.done() and time.monotonic() - started < BESIDE_S:
            seconds = step()
            if not written.done():
                beside.append(seconds)
        written_s += time.monotonic() - started
        pace.goes_on.clear()
        step()  # a piece under way ends
        started = time.monotonic()
        while time.monotonic() - started < ALONE_S:
            alone.append(step())
    return beside, alone, written_s


def _as_row(snapshot: Snapshot, pace: Pace, beside: list[float], alone: list[float], written_s: float) -> Row:
    spread = SaveConfig().save_spread
    protocol = (
        f"{len(beside) + len(alone)} steps of a DiT of width {NETWORK.width}, depth {NETWORK.depth}, ZeRO 1, "
        f"bf16, batch {SHAPE[0]}, 256 tokens, while {snapshot.bytes / 1e9:.2f} GB are written in the "
        f"background at {snapshot.bytes / pace.seconds / 1e6:.0f} MB/s, the slowest pace there is: with "
        f"save_spread={spread:g} that of saves {pace.seconds / spread:.0f} s apart, or more"
    )
    row = Row("steps beside a write", "steps", protocol, {"longtake": _timing(beside), ALONE: _timing(alone)})
    slower = statistics.median(beside) / statistics.median(alone)
    mean = statistics.fmean(beside) / statistics.fmean(alone)
    row.facts = {
        "seconds the write was to take": pace.seconds,
        "seconds it took": written_s,
        "a step beside a write over one alone, mean": mean,
        "a step beside a write over one alone, median": slower,
    }
    # The write runs beside the share `spread` of the steps between two saves.
    between = f"all steps between saves {pace.seconds / spread:.0f} s apart, over those of no save, mean"
    row.floors = [Floor(between, 1 + (mean - 1) * spread, SLOWER, at_most=True)]
    return row


def _write(path: Path, snapshot: Snapshot, pace: HeldPace) -> None:
    """Do what the saver's thread does."""
    pace.yield_processor()
    pace.goes_on.wait()
    write_checkpoint(path, snapshot, number=1, may_commit=lambda: None, pace=pace)


def _stepper(trainer: Trainer) -> Callable[[], float]:
    trainer.open()
    stream = iter(trainer.data.batches(0))

    def step() -> float:
        started = time.perf_counter()
        trainer.one_step(stream)
        return time.perf_counter() - started

    return step


def _timing(seconds: list[float]) -> Timing:
    return Timing(1, tuple(seconds), 1 / min(seconds), 1 / statistics.median(seconds))


def _trainer(folder: Path, world: ranks.World) -> Trainer:
    from core.engine.kinds import make_engine

    torch.manual_seed(0)
    folder.mkdir(parents=True)
    engine = make_engine(DiT(NETWORK), EngineConfig(), OptimizerConfig(), world)
    normaliser = Normaliser((0.0,) * SHAPE[2], (1.0,) * SHAPE[2])
    return Trainer(
        SingleStepper(
            engine,
            LatentObjective(ObjectiveConfig(), normaliser, frame_condition=False),
            EmaConfig(),
        ),
        TrainingData(batches=_batches),
        TrainerConfig(steps=10**6),
        folder=folder,
        seed=0,
    )


def _batches(first: int) -> Iterator[list[Batch]]:
    """Yield one micro-batch a step, without end."""
    moments = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0)).half()
    number = torch.arange(SHAPE[0])
    for step in itertools.count(first):
        condition = Condition(label=number % NETWORK.num_classes)
        yield [Batch(moments, number + step * SHAPE[0], number, torch.ones(SHAPE[0]), condition)]
