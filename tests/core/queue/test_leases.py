"""Run one: pytest tests/core/queue/test_leases.py -k expired"""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from core import environment
from core.errors import WorkError
from core.faults import failpoints
from core.queue.leases import Leases, Losses, lease_path, read_note


def make_old(folder: Path, unit: str, seconds: float) -> None:
    path = max(folder.glob(f"{unit}.*.lease"))
    stamp = path.stat().st_mtime - seconds
    os.utime(path, (stamp, stamp))


def test_one_unit_has_one_holder(tmp_path: Path) -> None:
    first, second = (Leases(tmp_path, timeout_s=60, owner=name) for name in "ab")
    lease = first.claim("000000")
    assert lease is not None
    assert lease.held()
    assert second.claim("000000") is None
    assert second.claim("000001") is not None
    lease.release()
    assert second.claim("000000") is not None
    assert not lease.held()


def test_an_expired_lease_is_taken_over_and_its_old_holder_notices(tmp_path: Path) -> None:
    first, second = (Leases(tmp_path, timeout_s=60, owner=name) for name in "ab")
    lease = first.claim("u")
    assert lease is not None
    make_old(tmp_path, "u", 61)
    assert [(s.unit, s.owner, s.expired) for s in second.states()] == [("u", "a", True)]
    assert second.claim("u") is not None
    assert not lease.touch()
    lease.release()  # must not remove the new holder's lease
    assert [(s.owner, s.generation) for s in second.states()] == [("b", 1)]


def test_a_sign_of_life_keeps_the_lease(tmp_path: Path) -> None:
    first, second = (Leases(tmp_path, timeout_s=60) for _ in range(2))
    lease = first.claim("u")
    assert lease is not None
    make_old(tmp_path, "u", 61)
    assert lease.touch()
    assert second.claim("u") is None


def test_only_the_file_server_clock_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker whose own clock is a day ahead or behind neither loses nor steals a lease."""
    holder, skewed = (Leases(tmp_path, timeout_s=60) for _ in range(2))
    assert holder.claim("u") is not None
    for skew in (-86400, 86400):
        monkeypatch.setattr("time.time", lambda skew=skew: 1e9 + skew)
        assert skewed.claim("u") is None


def test_many_threads_share_the_units_without_overlap(tmp_path: Path) -> None:
    """Each unit, half of them expired, goes to exactly one of eight racing workers."""
    units = [f"{i:03d}" for i in range(40)]
    dead = Leases(tmp_path, timeout_s=60, owner="dead")
    for unit in units[::2]:
        assert dead.claim(unit) is not None
        make_old(tmp_path, unit, 100)
    won: list[str] = []
    start = threading.Barrier(8)

    def work() -> None:
        leases = Leases(tmp_path, timeout_s=60)
        start.wait()
        won.extend(unit for unit in units if leases.claim(unit) is not None)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(won) == units


def test_a_full_disk_leaves_no_lease_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leases = Leases(tmp_path, timeout_s=60)

    def full(descriptor: int, text: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(OSError, match="No space left"):
            leases.claim("u")
    assert list(tmp_path.iterdir()) == []
    assert leases.claim("u") is not None


def test_a_killed_worker_is_replaced_after_the_timeout(tmp_path: Path) -> None:
    """A real process claims, is killed with SIGKILL, and its unit becomes free by age alone."""
    code = "import sys, signal, os; from pathlib import Path; from core.queue.leases import Leases\n"
    code += "Leases(Path(sys.argv[1]), timeout_s=60).claim('u'); os.kill(os.getpid(), signal.SIGKILL)"
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert done.returncode == -9
    other = Leases(tmp_path, timeout_s=60)
    assert other.claim("u") is None
    make_old(tmp_path, "u", 61)
    assert other.claim("u") is not None


def test_kept_alive_touches_and_releases(tmp_path: Path) -> None:
    leases = Leases(tmp_path, timeout_s=60)
    lease = leases.claim("u")
    assert lease is not None
    touched = threading.Event()
    original = lease.touch
    lease.touch = lambda: touched.set() or original()  # type: ignore[method-assign]
    with lease.kept_alive(every_s=0.01):
        assert touched.wait(timeout=10)
    assert leases.states() == []


def test_a_heartbeat_outlives_a_moments_failure_of_the_file_server(tmp_path: Path) -> None:
    lease = Leases(tmp_path, timeout_s=60).claim("u")
    assert lease is not None
    touched, tries = threading.Event(), []

    def touch() -> bool:
        tries.append(1)
        if len(tries) == 1:
            raise OSError(errno.ESTALE, "Stale file handle")
        touched.set()
        return True

    lease.touch = touch  # type: ignore[method-assign]
    with lease.kept_alive(every_s=0.01):
        assert touched.wait(timeout=10)


def test_after_the_block_no_thread_touches_the_lease(tmp_path: Path) -> None:
    lease = Leases(tmp_path, timeout_s=60).claim("u")
    assert lease is not None
    began, left, done = threading.Event(), threading.Event(), list[bool]()

    def slow() -> bool:
        began.set()
        left.wait(timeout=10)
        time.sleep(0.5)  # a file server that takes its time
        done.append(True)
        return True

    lease.touch = slow  # type: ignore[method-assign]
    with lease.kept_alive(every_s=0.01):
        assert began.wait(timeout=10)
        left.set()
    assert done


def test_signs_of_life_go_on_until_the_lease_is_lost(tmp_path: Path) -> None:
    lease = Leases(tmp_path, timeout_s=60).claim("u")
    assert lease is not None
    touches, lost = list[bool](), threading.Event()

    def touch() -> bool:
        touches.append(len(touches) < 3)
        if not touches[-1]:
            lost.set()
        return touches[-1]

    lease.touch = touch  # type: ignore[method-assign]
    with lease.kept_alive(every_s=0.01):
        assert lost.wait(timeout=10)
        time.sleep(0.1)
    assert touches == [True, True, True, False]


def test_who_takes_over_holds_the_unit_and_gives_it_back_whole(tmp_path: Path) -> None:
    """A later release removes every expired lease of the unit, and minds none that is gone already."""
    for number in range(3):
        lease = Leases(tmp_path, timeout_s=60, owner=str(number)).claim("u")
        assert lease is not None
        assert lease.held()
        make_old(tmp_path, "u", 61)
    newest = Leases(tmp_path, timeout_s=60).claim("u")
    assert newest is not None
    assert (newest.generation, newest.held(), lease.held()) == (3, True, False)
    lease_path(tmp_path, "u", 1).unlink()
    newest.release()
    assert list(tmp_path.iterdir()) == []
    assert not newest.held()


def test_a_lease_that_vanishes_while_it_is_touched_is_lost(tmp_path: Path) -> None:
    lease = Leases(tmp_path, timeout_s=60).claim("u")
    assert lease is not None
    held = lease.held

    def removed() -> bool:
        assert held()
        lease.path.unlink()
        return True

    lease.held = removed  # type: ignore[method-assign]
    assert not lease.touch()


def test_losses_are_workers_in_a_row_and_proven_ones_had_finished_other_units(tmp_path: Path) -> None:
    leases = Leases(tmp_path, timeout_s=60)
    lease = leases.claim("u")
    assert lease is not None
    assert lease.losses == Losses(0, 0)
    expected = [(0, 0)]
    for finished, proven in [(0, 0), (1, 1), (7, 2)]:
        if finished:
            worker = Leases(tmp_path, timeout_s=60)
            worker.finished = finished
            lease = worker.claim("u")
            assert lease is not None
            assert lease.losses == Losses(*expected[-1])
        (state,) = leases.states()
        assert (state.expired, state.losses) == (False, Losses(*expected[-1]))  # it lives
        make_old(tmp_path, "u", 61)
        expected.append((len(expected), proven))
        (state,) = leases.states()
        assert (state.expired, state.losses) == (True, Losses(*expected[-1]))


def test_losses_before_the_last_start_of_the_command_do_not_count(tmp_path: Path) -> None:
    first, second = (Leases(tmp_path, timeout_s=60) for _ in range(2))
    assert first.claim("u") is not None
    make_old(tmp_path, "u", 61)
    newest = second.newest()["u"]
    first.forget_losses()
    (state,) = first.states()
    assert state.losses == Losses(0, 0)
    lease = second.claim("u", newest)  # which listed the folder before the new start
    assert lease is not None
    assert lease.losses == Losses(0, 0)
    make_old(tmp_path, "u", 61)
    (state,) = first.states()
    assert state.losses == Losses(1, 0)


@pytest.mark.parametrize("note", [{}, {"lost": -1}, {"lost": "2"}, {"lost": True}, {"lost": 0}])
def test_a_lease_without_a_count_is_of_the_first_lost_worker(tmp_path: Path, note: dict) -> None:
    """Earlier versions wrote none."""
    leases = Leases(tmp_path, timeout_s=60)
    path = lease_path(tmp_path, "u", 4)
    path.write_text(json.dumps({"owner": "node7:1", "token": "ab", **note}))
    os.utime(path, (1, 1))
    (state,) = leases.states()
    assert (state.owner, state.generation, state.losses) == ("node7:1", 4, Losses(1, 0))


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "[" * 9999])
def test_a_lease_that_is_being_written_says_nothing(text: str) -> None:
    assert read_note(text) == {}


def test_the_newest_lease_of_each_unit_is_found_whatever_units_are_called(tmp_path: Path) -> None:
    leases = Leases(tmp_path / "of" / "a job", timeout_s=60)
    names = ["000001.000005", "000002.000000", "000002.000001", "notes"]
    for name in names:
        (leases.folder / f"{name}.lease").touch()
    assert leases.newest() == {"000001": 5, "000002": 1}


def test_a_lease_names_its_process_and_may_be_read_by_other_users(tmp_path: Path) -> None:
    leases = Leases(tmp_path, timeout_s=60)
    lease = leases.claim("u")
    assert lease is not None
    (state,) = leases.states()
    assert state.owner == leases.owner == f"{environment.node()}:{os.getpid()}"
    umask = os.umask(0)
    os.umask(umask)
    assert lease.path.stat().st_mode & 0o777 == 0o666 & ~umask


def test_a_claim_leaves_no_file_open(tmp_path: Path) -> None:
    leases, before = Leases(tmp_path, timeout_s=60), len(os.listdir("/proc/self/fd"))
    for number in range(3):
        assert leases.claim(str(number)) is not None
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_claim_that_fails_once_its_lease_is_written_leaves_none(tmp_path: Path) -> None:
    leases = Leases(tmp_path, timeout_s=60)
    failpoints.arm("lease.written:raise")
    try:
        with pytest.raises(WorkError, match="failpoint"):
            leases.claim("u")
    finally:
        failpoints.arm("")
    assert list(tmp_path.iterdir()) == []
