"""The state of an encoding job: how far it is, and whether what it wrote is unchanged."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np

from core.errors import UserError, WorkError
from core.files import published, sha256_file
from core.progress import Progress, counted, duration, say, size
from core.queue.config import QueueConfig
from core.queue.leases import LeaseState
from core.queue.work_queue import WorkQueue, describe_losses
from data.dataset.index import Dataset, shard_starts
from data.dataset.manifest import DatasetManifest
from data.dataset.schema import MANIFEST
from data.dataset.shared.shard_table import ShardRecord
from data.latent.encode_job import RECEIPT, read_receipt
from data.raw.unfinished import RECEIPTS
from tools.encode.setup import LEASES

_RECENT = 32  # parts that the rate is measured over


def describe(source: str, output: Path, config: QueueConfig) -> list[str]:
    """Describe the shards done, leased and failed, by whom and how old; samples a second and time left."""
    if (output / MANIFEST).exists():
        manifest = DatasetManifest.read(output)
        return [f"{output}: finished, {_contents(manifest)}"]
    if not (output / RECEIPTS).is_dir():
        raise UserError("output", output, "a cache that was begun, with action=encode")
    starts = shard_starts(Dataset(source))
    stamps = {int(path.stem): path.stat().st_mtime for path in published(output / RECEIPTS, RECEIPT)}
    queue = _queue(output, config, len(starts) - 1, list(stamps))
    states = [s for s in queue.leases.states() if not s.unit.isdigit() or int(s.unit) not in stamps]
    failed = [failure for failure in queue.failures() if failure.final]
    samples = np.diff(starts)
    done, total = int(samples[list(stamps)].sum()), int(starts[-1])
    alive = [state for state in states if not state.expired]
    lines = [
        f"{output}: {len(stamps)} of {counted(len(samples), 'shard')} done "
        f"({done} of {counted(total, 'sample')}), "
        f"{len(alive)} leased, {len(failed)} failed, "
        f"{len(samples) - len(stamps) - len(alive) - len(failed)} waiting"
    ]
    lines += [_lease_line(state, config.losses) for state in states]
    lines += [
        f"{f.unit} failed {counted(len(f.errors), 'time')}{'' if f.final else ', is tried again'}: "
        f"{f.errors[-1]}"
        for f in queue.failures()
    ]
    return [*lines, speed(stamps, samples, total - done, queue.leases.server_time() if alive else None)]


def plan(action: Literal["status", "verify"], output: Path) -> list[str]:
    """Say what status and verify would do; UserError if there is no cache, finished or begun."""
    records, files = recorded(output)
    if action == "status":
        return [f"tell how far {output} is, who is at which shard, and how fast; nothing is written"]
    total = sum(record.bytes for record in records)
    return [
        f"hash {counted(len(records), 'part')} ({size(total)}) and {counted(len(files), 'other file')} of "
        f"{output} again; nothing is written"
    ]


def _contents(manifest: DatasetManifest) -> str:
    return f"{counted(manifest.samples, 'sample')} in {counted(len(manifest.shards), 'part')}"


def _queue(output: Path, config: QueueConfig, shards: int, done: list[int]) -> WorkQueue:
    units = [f"{shard:06d}" for shard in range(shards)]
    finished = {f"{shard:06d}" for shard in done}
    return WorkQueue(output / LEASES, units, config, list_done=lambda: finished)


def _lease_line(state: LeaseState, most_losses: int) -> str:
    taken, after = f"{state.unit} leased by {state.owner}", ""
    if state.losses.workers > most_losses:
        after = f"; suspect, so tried last: {describe_losses(state.losses)}"
    if state.expired:
        silent = duration(state.age_s)
        return f"{taken}: no sign of life for {silent}, the next worker takes it over{after}"
    return f"{taken}, last sign of life {duration(max(0.0, state.age_s))} ago{after}"


def speed(stamps: dict[int, float], samples: np.ndarray, left: int, now: float | None) -> str:
    """Return samples a second over the last parts, and the time that `left` samples take.

    stamps: when each finished shard was, by the file server's clock.  samples: of every shard.
    now: by that clock, while workers live; None without any.
    """
    recent = sorted(stamps, key=lambda shard: stamps[shard])[-_RECENT:]
    if len(recent) < 2:
        return "no rate yet: it is measured over two parts or more"
    end = stamps[recent[-1]] if now is None else now
    rate = samples[recent[1:]].sum() / max(end - stamps[recent[0]], 1e-3)
    line = f"{rate:.3g} samples/s over the last {counted(len(recent) - 1, 'part')}"
    return f"{line}; no worker is there now" if now is None else f"{line}, {duration(left / rate)} left"


def verify(output: Path) -> None:
    """Hash every published file again; WorkError names all that are not as they were written."""
    records, files = recorded(output)
    began = time.monotonic()
    found = list(damaged(output, records, files))
    total = sum(record.bytes for record in records)
    if found:
        raise WorkError(
            f"{output}: {len(found)} of {len(records) + len(files)} files are not as they were written: "
            f"{', '.join(found)}; action=repair makes them anew"
        )
    took = time.monotonic() - began
    say(f"{output}: {counted(len(records), 'part')}, {size(total)}, as written ({duration(took)})")


def recorded(output: Path) -> tuple[list[ShardRecord], dict[str, str]]:
    """Return what to verify, parts and hashes of other files, by the manifest or else the receipts."""
    if (output / MANIFEST).exists():
        manifest = DatasetManifest.read(output)
        return list(manifest.shards), dict(manifest.files)
    if not (output / RECEIPTS).is_dir():
        raise UserError("output", output, "a cache that was begun, with action=encode")
    paths = published(output / RECEIPTS, RECEIPT)
    return [read_receipt(path)["record"] for path in paths], {}


def damaged(output: Path, records: list[ShardRecord], files: dict[str, str]) -> Iterator[str]:
    """Yield the names of files that are missing or have another hash."""
    expected = {record.name: record.sha256 for record in records} | files
    with Progress(len(expected), "verify", unit="files") as progress:
        for name, digest in expected.items():
            path = output / name
            if not path.is_file() or sha256_file(path) != digest:
                yield name
            progress.advance()
