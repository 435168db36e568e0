"""What a checkpoint costs: the copy that training waits for, the whole of it, and the steps beside its write.

The state is that of a real run of DiT-B: masters, two moments and an average in fp32, 2.1 GB.
"""

from __future__ import annotations

import itertools
import os
import shutil
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from core import distributed
from core.batch import Batch, Condition
from core.checkpoint import CheckpointReader, HostMemory, Snapshot, take, write_checkpoint
from core.checkpoint.snapshot import state_tensors
from core.checkpoint.tensor_file import CHUNK_BYTES
from core.diffusion.objective import ObjectiveConfig
from core.ema import EmaConfig
from core.engine_config import EngineConfig
from core.feed import Feed
from core.optim import OptimizerConfig
from core.trainer import Trainer, TrainerConfig
from data.latents import Normaliser
from models.dit import DiT, DiTConfig
from tools.bench.job import Config
from tools.bench.rounds import Floor, Row, Timing, Way, measure
from tools.train_setup import LatentObjective

if TYPE_CHECKING:
    from core.engine import Engine

NETWORK = DiTConfig.presets["DiT-B/2"]
SHAPE = (
    1,
    2,
    4,
    1,
    16,
    16,
)  # moments of one latent of 64 tokens: a short step, of which many fit beside a write
WARM_UP = 5
ALONE = "a step with no write beside it"
BLOCKING, WHOLE, SLOWER = 1.2, 1.3, 1.03


class WatchedTrainer(Trainer):
    """Keeps the seconds of saves, and of every step by whether a checkpoint was being written beside it."""

    def watch(self) -> None:
        """Begin."""
        self.beside: list[float] = []
        self.alone: list[float] = []
        self.between: list[float] = []
        self.blocked: list[float] = []
        save = self.saver.save

        def timed(*arguments: Any, **options: Any) -> None:
            started = time.perf_counter()
            save(*arguments, **options)
            self.blocked.append(time.perf_counter() - started)

        self.saver.save = timed  # type: ignore[method-assign]

    def _one_step(self, stream: Iterator[list[Batch]]) -> None:
        before, started = self.saver.is_writing, time.perf_counter()
        super()._one_step(stream)
        seconds = time.perf_counter() - started
        if self.step > WARM_UP:
            self.between.append(seconds)
            if before == self.saver.is_writing:
                (self.beside if before else self.alone).append(seconds)


def rows(config: Config, folder: Path) -> list[Row]:
    """The copy, the write, and the steps between saves."""
    world = distributed.start()
    try:
        trainer = _trainer(folder / "run", world, config)
        row = _steps(trainer, folder / "run")
        return [*_alone(config, trainer, folder), row]
    finally:
        distributed.stop(world)


def _steps(trainer: WatchedTrainer, folder: Path) -> Row:
    trainer.fit()
    path = trainer.saver.store.latest()
    assert path is not None
    CheckpointReader(path).verify()
    shutil.rmtree(folder)
    every, save = trainer.config.save_every, trainer.config.save_spread
    row = Row(
        "steps beside a write",
        "steps",
        f"{trainer.step} steps of a run of {_name()}, ZeRO 1, bf16, a checkpoint every {every} steps, its "
        f"write spread over at most {save:.0%} of the time between two; the last one verified",
        {"longtake": _timing(trainer.beside), ALONE: _timing(trainer.alone)},
    )
    # The first save meets fresh memory; the last one waits until everything is on disk.
    again = trainer.blocked[1:-1]
    row.facts = {
        "share of the steps that had a write beside them": len(trainer.beside) / len(trainer.between),
        "seconds a save stopped training, the first": trainer.blocked[0],
        "seconds a save stopped training, later ones, median": statistics.median(again),
        "seconds the last save took, waited for": trainer.blocked[-1],
        "a step beside a write over one alone, mean": _ratio(trainer, statistics.fmean),
    }
    beside = _ratio(trainer, statistics.median)
    row.floors = [Floor("a step beside a write over one alone, median", beside, SLOWER, at_most=True)]
    return row


def _alone(config: Config, trainer: Trainer, folder: Path) -> list[Row]:
    """The copy beside a plain one, and the write beside a plain one, with nothing else going on."""
    engine, ema = trainer.engine, trainer.ema
    flats = [flat.detach() for kind in state_tensors(engine, ema).values() for flat in kind]
    size = sum(flat.numel() * flat.element_size() for flat in flats)
    plain = [torch.empty_like(f, device="cpu", pin_memory=f.is_cuda) for f in flats]
    memory = HostMemory()

    def copy() -> Iterator[list[Tensor]]:
        for target, flat in zip(plain, flats, strict=True):
            target.copy_(flat, non_blocking=True)
        if flats[0].is_cuda:
            torch.cuda.synchronize()
        yield plain

    def ours() -> Iterator[Snapshot]:
        yield take(engine, ema, {"step": 1}, memory)

    ways = [
        Way("longtake", size, ours, lambda snapshot: _is_state(snapshot, engine, flats)),
        Way(
            "memory copy", size, copy, lambda copied: all(map(torch.equal, copied, (f.cpu() for f in flats)))
        ),
    ]
    protocol = f"{size / 1e9:.2f} GB, into memory that was used before"
    blocking = Row("what training waits for", "bytes", protocol, measure(ways, config.rounds))
    blocking.require("memory copy", 1 / BLOCKING)
    whole = _written(config, take(engine, ema, {"step": 1, "ema": []}, memory), folder)
    return [blocking, whole]


def _written(config: Config, snapshot: Snapshot, folder: Path) -> Row:
    number = itertools.count()

    def ours() -> Iterator[Path]:
        path = folder / f"step-{next(number):08d}.bench"
        write_checkpoint(path, snapshot, number=1, may_commit=lambda: None)
        yield path

    def raw() -> Iterator[Path]:
        path = folder / f"raw-{next(number)}"
        with open(path, "wb", buffering=0) as file:
            for tensor in snapshot.tensors.values():
                data = memoryview(tensor.numpy().data).cast("B")
                for start in range(0, len(data), CHUNK_BYTES):
                    file.write(data[start : start + CHUNK_BYTES])
            os.fsync(file.fileno())
        yield path

    ways = [
        Way("longtake", snapshot.bytes, ours, lambda path: _is_checkpoint(path, snapshot)),
        Way("raw write and fsync", snapshot.bytes, raw, lambda path: _is_raw(path, snapshot)),
    ]
    protocol = (
        f"{snapshot.bytes / 1e9:.2f} GB into new files, at full speed, synced by both; ours also hashed, "
        "with receipt and manifest; every one is read back and compared, and removed"
    )
    row = Row("the whole checkpoint", "bytes", protocol, measure(ways, config.rounds))
    row.require("raw write and fsync", 1 / WHOLE)
    return row


def _is_state(snapshot: Snapshot, engine: Engine, flats: list[Tensor]) -> bool:
    """Every range is what the state holds there."""
    kinds = list(state_ranges(snapshot, engine))
    per_kind = len(flats) // len(snapshot.kinds)
    return len(kinds) == len(snapshot.tensors) and all(
        torch.equal(tensor, shard.view(flats[kind * per_kind : (kind + 1) * per_kind]).cpu())
        for kind, shard, tensor in kinds
    )


def state_ranges(snapshot: Snapshot, engine: Engine) -> Iterator[tuple[int, Any, Tensor]]:
    """Number of the kind, shard and tensor of every range."""
    tensors = iter(snapshot.tensors.values())
    for kind in range(len(snapshot.kinds)):
        for shard in engine.owned:
            yield kind, shard, next(tensors)


def _is_checkpoint(path: Path, snapshot: Snapshot) -> bool:
    reader = CheckpointReader(path)
    reader.verify()
    equal = all(
        torch.equal(tensor, snapshot.tensors[f"{kind}/{name}@0"].view(shape))
        for kind in reader.kinds
        for (name, shape), tensor in zip(reader.shapes.items(), reader.full(kind).values(), strict=True)
    )
    shutil.rmtree(path)
    return equal


def _is_raw(path: Path, snapshot: Snapshot) -> bool:
    is_whole = path.stat().st_size == snapshot.bytes
    path.unlink()
    return is_whole


def _ratio(trainer: WatchedTrainer, middle: Callable[[list[float]], float]) -> float:
    return middle(trainer.beside) / middle(trainer.alone)


def _timing(seconds: list[float]) -> Timing:
    return Timing(1, tuple(seconds), 1 / min(seconds), 1 / statistics.median(seconds))


def _name() -> str:
    return f"a DiT of width {NETWORK.width}, depth {NETWORK.depth}"


def _trainer(folder: Path, world: distributed.World, config: Config) -> WatchedTrainer:
    from core.engine import Engine

    torch.manual_seed(0)
    engine = Engine(DiT(NETWORK), EngineConfig(), OptimizerConfig(), world)
    normaliser = Normaliser((0.0,) * SHAPE[2], (1.0,) * SHAPE[2])
    every = config.save_every
    trainer = WatchedTrainer(
        engine,
        LatentObjective(ObjectiveConfig(), normaliser, frame_condition=False),
        Feed(batches=_batches),
        TrainerConfig(steps=4 * every, save_every=every, keep_last=1, save_spread=0.5),
        folder=folder,
        seed=0,
        ema=EmaConfig(),
    )
    trainer.watch()
    return trainer


def _batches(first: int) -> Iterator[list[Batch]]:
    """One micro-batch a step, without end."""
    moments = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0)).half()
    number = torch.arange(SHAPE[0])
    for step in itertools.count(first):
        condition = Condition(label=number % NETWORK.num_classes)
        yield [Batch(moments, number + step * SHAPE[0], number, torch.ones(SHAPE[0]), condition)]
