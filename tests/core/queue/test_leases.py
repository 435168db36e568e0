"""Run one: pytest tests/core/queue/test_leases.py -k expired"""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from core.queue.leases import Leases


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
