"""Run: pytest tests/core/faults/test_failpoints.py"""

from __future__ import annotations

import errno
import math
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from core.errors import UserError, WorkError
from core.faults import failpoints
from core.faults.failpoints import failpoint


@pytest.fixture(autouse=True)
def _disarm() -> Iterator[None]:
    yield
    failpoints.arm("")


def test_nothing_is_armed_without_the_variable() -> None:
    value = torch.ones(())
    assert failpoint("save.begin", value) is value


def test_conditions_on_rank_and_step(monkeypatch: pytest.MonkeyPatch) -> None:
    failpoints.arm("a.b@rank=1,step=7:raise")
    failpoints.set_step(7)
    failpoint("a.b")  # this is rank 0
    monkeypatch.setenv("RANK", "1")
    failpoint("other")
    failpoints.set_step(6)
    failpoint("a.b")
    failpoints.set_step(7)
    with pytest.raises(WorkError, match=r"a\.b"):
        failpoint("a.b")


def test_actions_that_can_be_seen_from_inside() -> None:
    failpoints.arm("full:enospc; bad:nan")
    with pytest.raises(OSError) as caught:
        failpoint("full")
    assert caught.value.errno == errno.ENOSPC
    assert math.isnan(failpoint("bad", torch.ones(())))


def test_kill_ends_the_process_at_once() -> None:
    program = "from core.faults.failpoints import arm, failpoint; arm('x:kill'); failpoint('x'); print(1)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (-9, "")


@pytest.mark.parametrize("text", ["x", "x:explode", "x@node=1:kill", "x@rank:kill"])
def test_a_form_that_is_not_understood_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="LONGTAKE_FAULT"):
        failpoints.arm(text)


def test_a_thread_finishes_the_work_of_its_step() -> None:
    failpoints.arm("save.begin@step=7:raise")
    failpoints.set_step(7)
    pinned, go = failpoints.current_step(), threading.Event()

    def work() -> None:
        failpoints.pin_step(pinned)
        go.wait()
        failpoint("save.begin")

    with ThreadPoolExecutor(1) as thread:
        done = thread.submit(work)
        failpoints.set_step(8)
        go.set()
        with pytest.raises(WorkError, match=r"save\.begin"):
            done.result()
    failpoint("save.begin")  # the process itself is at 8
