"""Measure sharing units of work: one worker's claims beside bare lease files, and their file system calls."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from core.files import published
from core.queue.config import QueueConfig
from core.queue.work_queue import WorkQueue
from tools.bench.calls import counted_calls
from tools.bench.job import Config
from tools.bench.rounds import Floor, Row, Way, measure

SIZES = (1_000, 10_000, 100_000)  # units of a job
CLAIMED = 500  # claimed units, the last of which are left in a round
MOST_CALLS = 20  # file system calls a claim, besides one listing a minute
LISTINGS = ("listdir", "scandir")


def rows(config: Config, folder: Path) -> list[Row]:
    """Measure a case for each number of units, of which all but some are finished."""
    return [_row(config, folder / str(size), size) for size in SIZES]


def _row(config: Config, folder: Path, size: int) -> Row:
    units = [f"{number:06d}" for number in range(size)]
    done, bare = folder / "done", folder / "bare"
    for place in (done, bare):
        place.mkdir(parents=True)
    for unit in units[:-CLAIMED]:
        (done / unit).touch()

    def forget() -> None:
        for unit in units[-CLAIMED:]:
            (done / unit).unlink(missing_ok=True)

    ways = [
        Way("longtake", CLAIMED, lambda: _claim(folder / "leases", units, done), bool, forget),
        Way("a bare file each", CLAIMED, lambda: _create(bare, done, units[-CLAIMED:]), bool, forget),
    ]
    protocol = (
        f"{size:,} units, all but {CLAIMED} of them finished; one worker claims, finishes and gives back "
        "each of the rest, and does no work; bare: a file created exclusively, the mark of the finished "
        "unit, and the file removed"
    )
    row = Row(f"{size:,} units", "claims", protocol, measure(ways, config.rounds))
    forget()
    with counted_calls() as calls:
        claims = sum(1 for _ in _claim(folder / "leases", units, done))
    each = sum(count for name, count in calls.items() if name not in LISTINGS) / claims
    row.facts["file-system calls a claim"] = each
    row.facts["listings"] = sum(calls[name] for name in LISTINGS)
    row.floors.append(Floor("file-system calls a claim", each, MOST_CALLS, at_most=True))
    return row


def _claim(leases: Path, units: list[str], done: Path) -> Iterator[str]:
    finished: list[str] = []

    def finish(unit: str) -> None:
        (done / unit).touch()
        finished.append(unit)

    queue = WorkQueue(
        leases,
        units,
        QueueConfig(),
        list_done=lambda: [path.name for path in published(done)],
        is_done=lambda unit: (done / unit).exists(),
    )
    queue.work(finish)
    yield from finished


def _create(bare: Path, done: Path, units: list[str]) -> Iterator[str]:
    for unit in units:
        os.close(os.open(bare / unit, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
        (done / unit).touch()
        (bare / unit).unlink()
        yield unit
