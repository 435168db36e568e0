"""The load on a file server at 100,000 units: few calls a claim, and one listing a minute."""

from __future__ import annotations

import threading
from pathlib import Path

from core.queue.config import QueueConfig
from core.queue.leases import Leases
from core.queue.work_queue import WorkQueue
from tools.bench.calls import counted_calls

UNITS = [f"{number:06d}" for number in range(100_000)]
LEFT = 200  # units that are not finished
HELD = 50  # of these, those that other workers are at
MOST_CALLS = 20


def test_a_claim_takes_few_calls_and_no_listing_however_many_units_there_are(tmp_path: Path) -> None:
    done = set(UNITS[:-LEFT])
    others = Leases(tmp_path, timeout_s=60)
    held = [others.claim(unit, -1) for unit in UNITS[-HELD:]]
    assert all(held)
    queue = WorkQueue(
        tmp_path, UNITS, QueueConfig(), list_done=lambda: done, is_done=lambda unit: unit in done
    )
    claimed: list[str] = []

    def do(unit: str) -> None:
        done.add(unit)
        claimed.append(unit)
        if len(claimed) == LEFT - HELD:  # others finish theirs, so that this worker need not wait
            done.update(UNITS[-HELD:])

    before = threading.active_count()
    with counted_calls() as calls:
        queue.work(do)
    assert threading.active_count() == before
    assert sorted(claimed) == UNITS[-LEFT:-HELD]
    listings = calls.pop("scandir", 0) + calls.pop("listdir", 0)
    assert sum(calls.values()) <= MOST_CALLS * len(claimed)
    # The first look and the last, each at leases and, twice, at failures; the minute is not over.
    assert listings <= 2 * 3


def test_the_count_sees_what_is_asked_for_by_path(tmp_path: Path) -> None:
    with counted_calls() as calls:
        (tmp_path / "a").write_text("x")
        (tmp_path / "a").exists()
        (tmp_path / "a").rename(tmp_path / "b")
        list(tmp_path.iterdir())
        (tmp_path / "b").unlink()
    assert dict(calls) == {"open": 1, "stat": 1, "rename": 1, "listdir": 1, "remove": 1}
