"""Run: pytest tests/core/run/test_run_lock.py"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.errors import WorkError
from core.run.code import code
from core.run.processes import started
from core.run.run_lock import RunLock


@contextlib.contextmanager
def living_owner(folder: Path, *, releases: bool = False) -> Iterator[int]:
    """Return the pid of another process that took the folder's lock, and is killed at the end.

    releases: it has given the lock back, and lives on.
    """
    program = f"""
import sys; from pathlib import Path; from core.run.run_lock import RunLock
lock = RunLock(Path({str(folder)!r})); lock.acquire(); {releases} and lock.release()
print('ready', flush=True); sys.stdin.read()"""
    owner = subprocess.Popen([sys.executable, "-c", program], stdin=-1, stdout=-1, text=True)
    try:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "ready\n"
        yield owner.pid
    finally:
        owner.kill()
        owner.communicate()


def test_attempts_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = RunLock(tmp_path)
    assert lock.acquire().name == "local.1"
    lock.release()
    assert RunLock(tmp_path).acquire().name == "local.2"
    monkeypatch.setenv("SLURM_JOB_ID", "812")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "3")
    attempt = RunLock(tmp_path).acquire()
    assert (attempt.name, attempt.number) == ("812.3", 3)


@pytest.mark.parametrize("name", ["SLURM_JOB_ID", "TORCHELASTIC_RUN_ID"])
def test_who_began_the_run_stays_whoever_goes_on_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    lock = RunLock(tmp_path)
    assert not lock.begun_by_another()  # nobody has
    monkeypatch.setenv(name, "812")
    lock.acquire()
    monkeypatch.delenv(name)
    RunLock(tmp_path).acquire()  # a person goes on by hand
    assert lock.begun_by_another()
    monkeypatch.setenv(name, "812")
    assert not lock.begun_by_another()
    monkeypatch.setenv(name, "813")
    assert lock.begun_by_another()


def test_a_launch_without_a_name_and_a_run_of_an_earlier_version_may_be_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = RunLock(tmp_path)
    lock.acquire()
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    assert not lock.begun_by_another()
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "812")
    assert lock.begun_by_another()
    record = json.loads(lock.path.read_text())
    del record["begun_by"]
    lock.path.write_text(json.dumps(record))
    assert not lock.begun_by_another()
    lock.acquire()
    assert not lock.begun_by_another()


def test_a_newer_attempt_fences_off_the_older(tmp_path: Path) -> None:
    old, new = RunLock(tmp_path), RunLock(tmp_path)
    old.acquire()
    old.check()
    new.acquire()
    with pytest.raises(WorkError, match="was taken over by attempt"):
        old.check()
    before = new.path.read_bytes()
    old.release()
    assert new.path.read_bytes() == before
    new.check()


def test_a_living_owner_keeps_others_out_and_a_dead_one_does_not(tmp_path: Path) -> None:
    with living_owner(tmp_path) as process:
        with pytest.raises(WorkError, match=f"is being written by process {process}"):
            RunLock(tmp_path).acquire()
        assert json.loads((tmp_path / "run.lock").read_text())["number"] == 1
    assert RunLock(tmp_path).acquire().number == 2
    assert json.loads((tmp_path / "run.lock").read_text())["number"] == 2


def test_a_process_that_released_the_run_keeps_nobody_out(tmp_path: Path) -> None:
    with living_owner(tmp_path, releases=True):
        lock = RunLock(tmp_path)
        assert lock.acquire().number == 2
        lock.release()
        record = json.loads(lock.path.read_text())
        assert (record["pid"], record["started"], record["number"]) == (0, "", 2)


def test_a_lock_that_is_gone_is_not_released_and_not_owned(tmp_path: Path) -> None:
    lock = RunLock(tmp_path)
    lock.acquire()
    lock.path.unlink()
    lock.release()
    assert not lock.path.exists()
    with pytest.raises(WorkError, match="was taken over by another process"):
        lock.check()


def test_only_a_restart_of_the_same_job_fences_off_a_living_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SLURM requeues a job whose node it has lost; a process may still live there, or here."""
    monkeypatch.setenv("SLURM_JOB_ID", "812")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "0")
    with living_owner(tmp_path):
        with pytest.raises(WorkError, match="is being written by process"):
            RunLock(tmp_path).acquire()  # another task of the same start
        monkeypatch.setenv("SLURM_JOB_ID", "813")
        with pytest.raises(WorkError, match="is being written by process"):
            RunLock(tmp_path).acquire()
        monkeypatch.setenv("SLURM_JOB_ID", "812")
        monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
        assert RunLock(tmp_path).acquire().name == "812.1"


def test_the_first_process_of_a_container_keeps_others_out(tmp_path: Path) -> None:
    """There a job is process 1."""
    lock = RunLock(tmp_path)
    lock.acquire()
    record = json.loads(lock.path.read_text())
    lock.path.write_text(json.dumps({**record, "pid": 1, "started": started(1)}))
    with pytest.raises(WorkError, match="is being written by process 1 "):
        lock.require_free()


def test_the_code_of_the_last_start_is_known_unless_an_earlier_version_wrote_the_lock(tmp_path: Path) -> None:
    lock = RunLock(tmp_path)
    assert lock.code() is None
    lock.acquire()
    assert lock.code() == lock.attempt.code == code()
    record = json.loads(lock.path.read_text())
    del record["code"]
    lock.path.write_text(json.dumps(record))
    assert lock.code() is None


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"number": "1"}', "\0"])
def test_a_damaged_lock_is_one_line_that_says_what_to_do(tmp_path: Path, text: str) -> None:
    (tmp_path / "run.lock").write_text(text)
    with pytest.raises(WorkError, match=r"run\.lock: .*; where no process writes into the folder, remove"):
        RunLock(tmp_path).acquire()
