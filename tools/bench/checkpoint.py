"""Measure the cost of a checkpoint: the copy that training waits for, all of it, and steps beside its write.

The state is that of DiT-B after an update: masters, two moments and an average in fp32, 2.1 GB. Training
waits for `Saver.save`, which is measured with all that it does, beside a plain copy of the same bytes.
"""

from __future__ import annotations

import itertools
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from core.averages.ema import Ema, EmaConfig
from core.batch import Condition
from core.checkpoint.format import tensors_name
from core.checkpoint.reader import CheckpointReader
from core.checkpoint.saver import SaveConfig, Saver
from core.checkpoint.snapshot import Snapshot, state_tensors, take
from core.checkpoint.tensor_file import CHUNK_BYTES
from core.checkpoint.writer import write_checkpoint
from core.distributed import ranks
from core.engine.config import EngineConfig
from core.engine.network import MAIN, Network
from core.errors import WorkError
from core.files import published
from core.memory.host_memory import HostMemory
from core.optim.groups import OptimizerConfig
from models.denoisers.dit import DiT, DiTConfig
from tools.bench import pacing
from tools.bench.job import Config
from tools.bench.rounds import Row, Way, measure

if TYPE_CHECKING:
    from core.engine.engine import Engine

NETWORK = "DiT-B/2"
COPY, RAW = "memory copy", "raw write and fsync"
BLOCKING, WHOLE = 1.2, 1.3


def rows(config: Config, folder: Path) -> list[Row]:
    """Measure the copy, the write, and the steps beside one."""
    world = ranks.start()
    try:
        network = DiTConfig.presets[config.network or NETWORK]
        engine = _updated(replace(network, preset=config.network or NETWORK), world)
        ema = Ema(EmaConfig(), engine.masters)
        snapshot, first = _first_copies(engine, ema)
        blocking = _blocking(config, engine, ema, folder)
        blocking.facts = first
        whole = _whole(config, snapshot, folder)
        del engine, ema
        return [blocking, whole, pacing.row(snapshot, world, folder)]
    finally:
        ranks.stop(world)


def _updated(network: DiTConfig, world: ranks.World) -> Engine:
    """Return an engine after one update, so that its moments are numbers in memory of their own."""
    from core.engine.kinds import make_engine

    torch.manual_seed(0)
    engine = make_engine(DiT(network), EngineConfig(), OptimizerConfig(), world)
    x = torch.randn(1, network.input_channels, 1, 8, 8, device=world.device)
    label = torch.zeros(1, dtype=torch.int64, device=world.device)
    out = engine(x, label.float(), Condition(label=label))
    engine.backward((out.float() - 1).square().mean())
    engine.step(1e-4)
    return engine


def _first_copies(engine: Engine, ema: Ema) -> tuple[Snapshot, dict[str, float]]:
    """Return a copy of the state, and the cost of a run's first copy, whose memory has no pages yet."""
    state = _state(engine, ema)
    started = time.perf_counter()
    plain = [torch.empty_like(flat, device="cpu", pin_memory=flat.is_cuda).copy_(flat) for flat in state]
    copied = time.perf_counter()
    del plain
    between = time.perf_counter()
    snapshot = take({MAIN: Network(engine, ema)}, {"step": 1, "ema": ["0.9999"]}, HostMemory())
    taken = time.perf_counter() - between
    facts = {
        "seconds of a run's first copy, into fresh memory": taken,
        "seconds of a memory copy into fresh memory": copied - started,
    }
    return snapshot, facts


def _blocking(config: Config, engine: Engine, ema: Ema, folder: Path) -> Row:
    """Measure the time until `Saver.save` lets training go on; its write ends before the other way begins."""
    state = _state(engine, ema)
    size = sum(flat.numel() * flat.element_size() for flat in state)
    plain = [torch.empty_like(flat, device="cpu", pin_memory=flat.is_cuda) for flat in state]
    networks = {MAIN: Network(engine, ema)}
    saver = Saver(folder / "run", networks, SaveConfig(save_every=1, keep_last=1), identity={}, record={})
    saver.open()
    steps = itertools.count(1)

    def save() -> Iterator[Path]:
        saver.save({"step": next(steps)}, required=False)
        yield folder / "run"

    def is_saved(_: Path) -> bool:
        saver.finish()
        path = saver.store.latest()
        assert path is not None
        return is_state(path, engine, ema)

    def copy() -> Iterator[list[Tensor]]:
        for target, flat in zip(plain, state, strict=True):
            target.copy_(flat, non_blocking=True)
        if state[0].is_cuda:
            torch.cuda.synchronize()
        yield plain

    def is_copied(copied: list[Tensor]) -> bool:
        return all(torch.equal(a, b.cpu()) for a, b in zip(copied, state, strict=True))

    ways = [Way("longtake", size, save, is_saved), Way(COPY, size, copy, is_copied)]
    protocol = (
        f"{size / 1e9:.2f} GB into host memory that was used before; ours is all of a save that training "
        "waits for; what it then writes is read back and compared"
    )
    row = Row("what training waits for", "bytes", protocol, measure(ways, config.rounds))
    row.require(COPY, 1 / BLOCKING)
    saver.close()
    shutil.rmtree(folder / "run")
    return row


def _whole(config: Config, snapshot: Snapshot, folder: Path) -> Row:
    """Measure the write at full speed, beside the same bytes in as many files."""
    number = itertools.count()

    def ours() -> Iterator[Path]:
        path = folder / f"step-{next(number):08d}.bench"
        write_checkpoint(path, snapshot, number=1, may_commit=lambda: None)
        yield path

    def is_right(path: Path) -> bool:
        CheckpointReader(path).verify()
        equal = is_snapshot(path, snapshot)
        shutil.rmtree(path)
        return equal

    template = next(ours())
    small = {path.name: path.read_bytes() for path in published(template) if path.name != tensors_name(0)}
    if not is_right(template):
        raise WorkError("a checkpoint differs from what it was written from")

    def raw() -> Iterator[Path]:
        path = folder / f"raw-{next(number)}"
        write_raw(path, snapshot, small)
        yield path

    ways = [
        Way("longtake", snapshot.bytes, ours, is_right),
        Way(RAW, snapshot.bytes, raw, lambda path: is_raw(path, snapshot, small)),
    ]
    protocol = (
        f"{snapshot.bytes / 1e9:.2f} GB into {len(small) + 1} new files each, at full speed, synced by both; "
        "ours also hashed, with receipt and manifest; every one is read back and compared, and removed"
    )
    row = Row("the whole checkpoint", "bytes", protocol, measure(ways, config.rounds))
    row.require(RAW, 1 / WHOLE)
    return row


def write_raw(folder: Path, snapshot: Snapshot, small: dict[str, bytes]) -> None:
    """Write the tensors' bytes to one file, and `small` to files of their own, each synced."""
    folder.mkdir()
    views = [memoryview(tensor.numpy().data).cast("B") for tensor in snapshot.tensors.values()]
    for name, parts in {tensors_name(0): views, **{n: [memoryview(b)] for n, b in small.items()}}.items():
        with open(folder / name, "wb", buffering=0) as file:
            for part in parts:
                for start in range(0, len(part), CHUNK_BYTES):
                    file.write(part[start : start + CHUNK_BYTES])
            os.fsync(file.fileno())


def is_raw(folder: Path, snapshot: Snapshot, small: dict[str, bytes]) -> bool:
    """Return whether every file has the bytes that `write_raw` was given; the folder is removed."""
    equal = all((folder / name).read_bytes() == data for name, data in small.items())
    with open(folder / tensors_name(0), "rb") as file:
        for tensor in snapshot.tensors.values():
            data = memoryview(tensor.numpy().data).cast("B")
            equal = equal and file.read(len(data)) == data
        equal = equal and not file.read(1)
    shutil.rmtree(folder)
    return equal


def is_snapshot(path: Path, snapshot: Snapshot) -> bool:
    """Return whether a checkpoint of one rank has the numbers of `snapshot`, and no others."""
    reader = CheckpointReader(path)
    found = {f"{kind}/{name}@0": t for kind in reader.kinds for name, t in reader.full(kind).items()}
    return found.keys() == snapshot.tensors.keys() and all(
        torch.equal(tensor.flatten(), snapshot.tensors[key]) for key, tensor in found.items()
    )


def is_state(path: Path, engine: Engine, ema: Ema | None) -> bool:
    """Return whether a checkpoint of one rank has the numbers that the engine and its average hold now."""
    return is_snapshot(path, take({MAIN: Network(engine, ema)}, {"step": 1}, None))


def _state(engine: Engine, ema: Ema | None) -> list[Tensor]:
    return [flat.detach() for kind in state_tensors(Network(engine, ema)).values() for flat in kind]
