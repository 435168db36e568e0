"""Work of two halves: the rest of a unit runs beside the next one.

Run: pytest tests/core/queue/test_rest_of_units.py
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from core.queue.config import QueueConfig
from core.queue.leases import Leases
from tests.core.queue.test_work_queue import UNITS, do, make_queue


def overlapped(folder: Path, log: list[str], **fails: Exception) -> Callable[[str], Callable[[], None]]:
    """Return work of two halves.  fails: what the rest of a unit raises, by `unit_NNN`."""

    def begin(unit: str) -> Callable[[], None]:
        log.append(f"begin {unit}")

        def rest() -> None:
            if f"unit_{unit}" in fails:
                raise fails[f"unit_{unit}"]
            assert Leases(folder / "leases", timeout_s=60).claim(unit) is None  # still held
            log.append(f"end {unit}")
            do(folder, unit)

        return rest

    return begin


def test_the_rest_of_a_unit_runs_beside_the_next_one_and_no_further(tmp_path: Path) -> None:
    log, second_begun = list[str](), threading.Event()
    two_halves = overlapped(tmp_path, log)

    def begin(unit: str) -> Callable[[], None]:
        rest = two_halves(unit)
        if unit != UNITS[0]:
            second_begun.set()

        def waits() -> None:
            if unit == UNITS[0]:
                assert second_begun.wait(30)
            rest()

        return waits

    finished: list[str] = []
    make_queue(tmp_path).work(begin, finished=finished.append)
    assert log[:3] == ["begin 000", "begin 001", "end 000"]
    for number, unit in enumerate(UNITS[2:]):
        assert log.index(f"begin {unit}") > log.index(f"end {UNITS[number]}")
    assert finished == UNITS
    assert list((tmp_path / "leases").iterdir()) == []


def test_a_rest_that_fails_counts_against_its_own_unit(tmp_path: Path) -> None:
    log: list[str] = []
    queue = make_queue(tmp_path, QueueConfig(timeout_s=60, heartbeat_s=0.02, attempts=2))
    queue.work(overlapped(tmp_path, log, unit_003=RuntimeError("no luck")))
    assert log.count("begin 003") == 2
    assert [(failure.unit, failure.final) for failure in queue.failures()] == [("003", True)]
    assert queue.done == {*UNITS} - {"003"}


@pytest.mark.parametrize("unit", [UNITS[4], UNITS[-1]])
def test_a_rest_that_cannot_write_ends_the_worker_and_gives_all_back(tmp_path: Path, unit: str) -> None:
    log: list[str] = []
    full = OSError(errno.ENOSPC, "no space left on device")
    with pytest.raises(OSError, match="no space left"):
        make_queue(tmp_path).work(overlapped(tmp_path, log, **{f"unit_{unit}": full}))
    assert list((tmp_path / "leases").iterdir()) == []
    assert f"end {UNITS[3]}" in log
    make_queue(tmp_path).work(overlapped(tmp_path, log))
    assert {path.name for path in (tmp_path / "done").iterdir()} == {*UNITS}


def test_a_worker_that_is_ended_finishes_the_rest_of_the_unit_before(tmp_path: Path) -> None:
    log: list[str] = []
    two_halves = overlapped(tmp_path, log)

    def begin(unit: str) -> Callable[[], None]:
        if unit == UNITS[2]:
            raise SystemExit(75)
        return two_halves(unit)

    with pytest.raises(SystemExit):
        make_queue(tmp_path).work(begin)
    assert log[-1] == "end 001"
    assert list((tmp_path / "leases").iterdir()) == []
