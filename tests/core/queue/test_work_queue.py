"""Units shared by workers: each is done once, none is lost, and hopeless ones are named."""

from __future__ import annotations

import errno
import os
import shutil
import threading
import types
from pathlib import Path

import pytest

from core.errors import UserError, WorkError
from core.files import temporary_name
from core.queue.config import QueueConfig
from core.queue.leases import Lease, Leases, lease_path
from core.queue.work_queue import WorkQueue

UNITS = [f"{number:03d}" for number in range(12)]
CONFIG = QueueConfig(timeout_s=60, heartbeat_s=0.02)


def make_queue(folder: Path, config: QueueConfig = CONFIG, **more: object) -> WorkQueue:
    """Make a queue whose units are done when a file of their name lies in `done`."""
    (folder / "done").mkdir(exist_ok=True)
    list_done = lambda: {path.name for path in (folder / "done").iterdir()}  # noqa: E731
    return WorkQueue(folder / "leases", UNITS, config, list_done=list_done, **more)  # type: ignore[arg-type]


def do(folder: Path, unit: str) -> None:
    (folder / "done" / unit).touch()


def make_old(folder: Path, unit: str, seconds: float) -> None:
    path = max((folder / "leases").glob(f"{unit}.*.lease"))
    stamp = path.stat().st_mtime - seconds
    os.utime(path, (stamp, stamp))


def test_many_workers_do_every_unit_once(tmp_path: Path) -> None:
    times = dict.fromkeys(UNITS, 0)
    lock, start = threading.Lock(), threading.Barrier(4)

    def count(unit: str) -> None:
        with lock:
            times[unit] += 1
        do(tmp_path, unit)

    def work() -> None:
        queue = make_queue(tmp_path)
        start.wait()
        queue.work(count)

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert times == dict.fromkeys(UNITS, 1)
    assert list((tmp_path / "leases").iterdir()) == []


def test_who_waits_for_others_ends_soon_after_them_and_looks_less_often_the_longer_it_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = QueueConfig(timeout_s=60, heartbeat_s=10)
    assert Leases(tmp_path / "leases", timeout_s=60, owner="other").claim("000") is not None
    clock, looks = [100.0], list[float]()

    def sleep(seconds: float) -> None:
        clock[0] += seconds
        looks.append(seconds)
        if clock[0] >= 160 and not (tmp_path / "done/000").exists():
            do(tmp_path, "000")

    time = types.SimpleNamespace(monotonic=lambda: clock[0], sleep=sleep)
    monkeypatch.setattr("core.queue.work_queue.time", time)
    make_queue(tmp_path, slow).work(lambda unit: do(tmp_path, unit))
    assert looks[0] == 0.05
    assert looks == sorted(looks)
    assert looks[-1] == 2.5
    assert len(looks) == 42


def test_a_unit_of_a_lost_worker_is_waited_for_and_then_taken_over(tmp_path: Path) -> None:
    lost = Leases(tmp_path / "leases", timeout_s=60, owner="lost")
    assert lost.claim("005") is not None
    waited: list[str] = []

    def wait(states: list) -> None:
        waited.extend(state.owner for state in states)
        assert {path.name for path in (tmp_path / "done").iterdir()} == set(UNITS) - {"005"}
        make_old(tmp_path, "005", 61)

    queue = make_queue(tmp_path)
    queue.work(lambda unit: do(tmp_path, unit), wait)
    assert waited == ["lost"]
    assert queue.left() == []


def test_a_unit_that_fails_is_tried_last_and_then_named(tmp_path: Path) -> None:
    order: list[str] = []

    def work(unit: str) -> None:
        order.append(unit)
        if unit == "003":
            raise WorkError("no good")
        do(tmp_path, unit)

    queue = make_queue(tmp_path)
    queue.work(work)
    assert order.count("003") == 3
    assert sorted(order) == sorted([*UNITS, "003", "003"])
    assert order[-2:] == ["003", "003"]
    (failure,) = queue.failures()
    assert (failure.unit, failure.final, len(failure.errors)) == ("003", True, 3)
    assert failure.errors[0].endswith("WorkError: no good")
    assert f":{os.getpid()}: " in failure.errors[0]
    make_queue(tmp_path).work(work)
    assert order.count("003") == 3  # given up
    queue.forget_losses()
    assert queue.left() == []  # for its errors, which a new start does not forget
    queue.forget_failures()
    assert queue.left() == ["003"]


def test_a_unit_that_succeeds_at_last_is_told_of_and_leaves_no_failure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tries: list[str] = []

    def work(unit: str) -> None:
        tries.append(unit)
        if tries.count(unit) < 2:
            raise OSError("the file server hiccuped")
        do(tmp_path, unit)

    queue = make_queue(tmp_path)
    queue.work(work)
    assert sorted(tries) == sorted(2 * UNITS)
    assert queue.failures() == []
    lines = capsys.readouterr().err.splitlines()
    assert sorted(line.split(" failed and is tried again: ")[0] for line in lines) == [
        f"warning: unit {unit}" for unit in UNITS
    ]
    assert all(line.endswith("OSError: the file server hiccuped") for line in lines)


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), LookupError("fatal")])
def test_a_full_disk_or_a_fatal_error_ends_the_worker_and_blames_no_unit(
    tmp_path: Path, error: Exception
) -> None:
    def work(unit: str) -> None:
        raise error

    queue = make_queue(tmp_path, fatal=(LookupError,))
    with pytest.raises(type(error), match=r"No space left|fatal"):
        queue.work(work)
    assert queue.failures() == []
    assert queue.leases.states() == []  # given back


def test_an_error_in_a_unit_that_was_taken_over_is_nobodys(tmp_path: Path) -> None:
    def work(unit: str) -> None:
        if unit == "004" and not (tmp_path / "done" / unit).exists():
            make_old(tmp_path, unit, 61)
            assert Leases(tmp_path / "leases", timeout_s=60, owner="other").claim(unit) is not None
            do(tmp_path, unit)
            raise WorkError("its temporary file was removed")
        do(tmp_path, unit)

    queue = make_queue(tmp_path, QueueConfig(timeout_s=60, heartbeat_s=30))
    queue.work(work)
    assert queue.failures() == []


def test_a_heartbeat_slower_than_half_the_timeout_is_refused() -> None:
    with pytest.raises(UserError, match=r"heartbeat_s=20: expected at most half of timeout_s=30"):
        QueueConfig(timeout_s=30, heartbeat_s=20)


def test_a_folder_that_cannot_be_written_ends_the_worker_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = make_queue(tmp_path)

    def full(descriptor: int, text: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(OSError, match="No space left"):
            queue.work(lambda unit: do(tmp_path, unit))
    assert not list((tmp_path / "leases").iterdir())
    queue.work(lambda unit: do(tmp_path, unit))
    assert queue.left() == []


def test_temporary_files_of_other_workers_are_no_failures_and_no_leases(tmp_path: Path) -> None:
    queue = make_queue(tmp_path)
    for name in ("000.failure.json", "001.000000.lease", "000005.failure.json"):
        temporary_name(tmp_path / "leases" / name).touch()
    assert queue.failures() == []
    assert queue.leases.states() == []
    queue.forget_failures()
    queue.work(lambda unit: do(tmp_path, unit))
    assert queue.left() == []


def order_of(folder: Path) -> list[str]:
    """Do what is left, and where another worker holds a unit, have it do that; returns the order."""
    order: list[str] = []

    def work(unit: str) -> None:
        order.append(unit)
        do(folder, unit)

    make_queue(folder).work(work, lambda states: do(folder, states[0].unit))
    return order


def test_a_lone_worker_goes_in_order_and_one_of_several_in_its_own(tmp_path: Path) -> None:
    assert order_of(tmp_path) == UNITS
    orders = set()
    for number in range(3):
        folder = tmp_path / str(number)
        assert Leases(folder / "leases", timeout_s=60, owner="other").claim("000") is not None
        orders.add(tuple(order_of(folder)))
    assert {len(order) for order in orders} == {len(UNITS) - 1}
    assert len(orders) > 1


def test_units_that_others_hold_are_asked_for_last(tmp_path: Path) -> None:
    other, held = Leases(tmp_path / "leases", timeout_s=60, owner="other"), ["002", "007", "011"]
    for unit in held:
        assert other.claim(unit) is not None
    queue, asked = make_queue(tmp_path), list[str]()
    claim = queue.leases.claim

    def recorded(unit: str, newest: int | None = None) -> Lease | None:
        asked.append(unit)
        return claim(unit, newest)

    def wait(states: list) -> None:
        for state in states:
            do(tmp_path, state.unit)

    queue.leases.claim = recorded  # type: ignore[method-assign]
    queue.work(lambda unit: do(tmp_path, unit), wait)
    assert set(asked[: len(UNITS) - len(held)]) == set(UNITS) - set(held)
    assert queue.leases.finished == len(UNITS) - len(held)


def test_a_listing_is_renewed_after_eight_units_that_others_did(tmp_path: Path) -> None:
    units = [f"{number:03d}" for number in range(30)]
    finished, asked, listed = set[str](), list[str](), list[int]()

    def list_done() -> set[str]:
        listed.append(len(asked))
        return set(finished)

    def is_done(unit: str) -> bool:
        asked.append(unit)
        return unit in finished

    def work(unit: str) -> None:
        if unit == units[0]:
            finished.update(units[:21])  # others were as fast
        finished.add(unit)

    WorkQueue(tmp_path / "leases", units, CONFIG, list_done=list_done, is_done=is_done).work(work)
    assert asked[:11] == [units[0], units[0], *units[1:9], units[21]]
    assert listed[:2] == [0, 10]


@pytest.mark.parametrize("finished", [True, False])
def test_a_folder_that_is_gone_ends_the_worker_where_the_job_is_complete(
    tmp_path: Path, finished: bool
) -> None:
    queue = make_queue(tmp_path)
    shutil.rmtree(tmp_path / "leases")
    claim = queue.leases.claim

    def late(unit: str, newest: int | None = None) -> Lease | None:
        for each in UNITS if finished else ():
            do(tmp_path, each)
        return claim(unit, newest)

    queue.leases.claim = late  # type: ignore[method-assign]
    if finished:
        queue.work(lambda unit: pytest.fail(unit))
    else:
        with pytest.raises(FileNotFoundError):
            queue.work(lambda unit: do(tmp_path, unit))


@pytest.mark.parametrize("given_up", [True, False])
def test_a_unit_that_was_done_or_given_up_before_it_was_claimed_is_left_alone(
    tmp_path: Path, given_up: bool
) -> None:
    queue, done = make_queue(tmp_path), list[str]()
    claim = queue.leases.claim

    def late(unit: str, newest: int | None = None) -> Lease | None:
        if unit == "003" and given_up:
            (tmp_path / "leases" / "003.failure.json").write_text('{"errors": ["no good"], "final": true}')
        elif unit == "003":
            do(tmp_path, unit)
        return claim(unit, newest)

    queue.leases.claim = late  # type: ignore[method-assign]
    queue.work(lambda unit: (done.append(unit), do(tmp_path, unit))[0])
    assert done == [unit for unit in UNITS if unit != "003"]
    assert [failure.unit for failure in queue.failures()] == ["003"] * given_up


def test_an_error_after_a_unit_was_finished_is_no_failure_of_it(tmp_path: Path) -> None:
    def work(unit: str) -> None:
        do(tmp_path, unit)
        if unit == "004":
            raise WorkError("a thread complained")

    queue = make_queue(tmp_path)
    queue.work(work)
    assert queue.failures() == []


def test_an_error_in_a_unit_that_another_worker_still_does_is_nobodys(tmp_path: Path) -> None:
    def work(unit: str) -> None:
        if unit == "004":
            lease_path(tmp_path / "leases", unit, 1).write_text('{"owner": "other", "token": "theirs"}')
            raise WorkError("its temporary file was removed")
        do(tmp_path, unit)

    queue = make_queue(tmp_path)
    seen = list[object]()
    queue.work(work, lambda states: (seen.extend(queue.failures()), do(tmp_path, "004"))[0])
    assert seen == queue.failures() == []
