"""Two processes are in tests/core/train/test_run_records.py. Run: pytest tests/core/run/test_fence.py"""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from core.errors import WorkError
from core.run.fence import fenced
from core.run.run_lock import RunLock


class Ends:
    """Takes the place of os._exit."""

    def __init__(self) -> None:
        self.called, self.status = threading.Event(), 0

    def __call__(self, status: int) -> None:
        self.status = status
        self.called.set()


def test_who_has_lost_the_run_ends(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lock, ends = RunLock(tmp_path), Ends()
    lock.acquire()
    with fenced(lock.check, 0.01, ends):
        assert not ends.called.wait(0.1)
        RunLock(tmp_path).acquire()
        assert ends.called.wait(60)
    assert ends.status == 1
    assert f"{tmp_path} was taken over by attempt local.2" in capsys.readouterr().err


def test_storage_that_does_not_answer_says_nothing_of_the_owner() -> None:
    answers: list[Exception | None] = [OSError(116, "Stale file handle"), ValueError("cut off"), None]
    ends, asked = Ends(), threading.Event()

    def require_owner() -> None:
        if not answers:
            asked.set()
            raise WorkError("taken over")
        if (error := answers.pop(0)) is not None:
            raise error

    with fenced(require_owner, 0.01, ends):
        assert asked.wait(60)
        assert ends.called.wait(60)


def test_it_ends_with_the_block() -> None:
    ends, asked = Ends(), []

    def require_owner() -> None:
        asked.append(1)

    with fenced(require_owner, 0.01, ends):
        pass
    for thread in threading.enumerate():
        if thread.name == "fence":
            thread.join(60)
    count = len(asked)
    assert not any(thread.name == "fence" for thread in threading.enumerate())
    assert len(asked) == count
    assert not ends.called.is_set()
