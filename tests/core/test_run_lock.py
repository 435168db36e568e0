"""Run: pytest tests/core/test_run_lock.py"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.errors import WorkError
from core.run_lock import RunLock


@contextlib.contextmanager
def living_owner(folder: Path) -> Iterator[int]:
    """The number of another process that holds the folder's lock, and is killed at the end."""
    program = f"""
import sys; from pathlib import Path; from core.run_lock import RunLock
RunLock(Path({str(folder)!r})).acquire(); print('ready', flush=True); sys.stdin.read()"""
    owner = subprocess.Popen([sys.executable, "-c", program], stdin=-1, stdout=-1, text=True)
    try:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "ready\n"
        yield owner.pid
    finally:
        owner.kill()
        owner.communicate()


def test_attempts_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    lock = RunLock(tmp_path)
    assert lock.acquire().name == "local.1"
    lock.release()
    assert RunLock(tmp_path).acquire().name == "local.2"
    monkeypatch.setenv("SLURM_JOB_ID", "812")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "3")
    attempt = RunLock(tmp_path).acquire()
    assert (attempt.name, attempt.number) == ("812.3", 3)


def test_a_newer_attempt_fences_off_the_older(tmp_path: Path) -> None:
    old, new = RunLock(tmp_path), RunLock(tmp_path)
    old.acquire()
    old.check()
    new.acquire()
    with pytest.raises(WorkError, match="was taken over by attempt"):
        old.check()
    old.release()  # changes nothing
    new.check()


def test_a_living_owner_keeps_others_out_and_a_dead_one_does_not(tmp_path: Path) -> None:
    with living_owner(tmp_path) as process:
        with pytest.raises(WorkError, match=f"is being written by process {process}"):
            RunLock(tmp_path).acquire()
        assert json.loads((tmp_path / "run.lock").read_text())["number"] == 1
    assert RunLock(tmp_path).acquire().number == 2
    assert json.loads((tmp_path / "run.lock").read_text())["number"] == 2
