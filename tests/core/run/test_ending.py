"""Signals end a process where that is safe, and nowhere else."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from core.errors import CONTINUABLE
from core.run import ends
from core.run.ending import Ending
from tests.forking import start_forked


def reached(
    number: int, block: Callable[[Ending, list[str]], None]
) -> tuple[list[str], BaseException | None]:
    """Return which places `block` came to, and how it ended."""
    places: list[str] = []
    ending = Ending()
    before = signal.getsignal(number)
    try:
        with ending.catching():
            block(ending, places)
    except SystemExit as error:
        return places, error
    finally:
        assert signal.getsignal(number) is before
    return places, None


def test_a_signal_ends_the_block_at_once() -> None:
    def block(ending: Ending, places: list[str]) -> None:
        signal.raise_signal(signal.SIGTERM)
        places.append("after the signal")

    places, error = reached(signal.SIGTERM, block)
    assert places == []
    assert isinstance(error, SystemExit)
    assert error.code == CONTINUABLE


def test_within_held_it_waits_for_allowed() -> None:
    def block(ending: Ending, places: list[str]) -> None:
        with ending.holding_signals():
            signal.raise_signal(signal.SIGINT)
            places.append("held")
            with ending.allowing_signals():
                places.append("allowed")

    places, error = reached(signal.SIGINT, block)
    assert places == ["held"]
    assert isinstance(error, SystemExit)


def test_within_held_it_waits_for_the_end() -> None:
    def block(ending: Ending, places: list[str]) -> None:
        with ending.holding_signals():
            signal.raise_signal(signal.SIGTERM)
            places.append("held")
        places.append("behind")

    places, error = reached(signal.SIGTERM, block)
    assert places == ["held"]
    assert isinstance(error, SystemExit)


def test_within_allowed_it_comes_at_once_and_after_it_is_held_again() -> None:
    def block(ending: Ending, places: list[str]) -> None:
        with ending.holding_signals():
            with ending.allowing_signals():
                places.append("allowed")
            signal.raise_signal(signal.SIGTERM)
            places.append("held")
            with ending.allowing_signals():
                places.append("never")

    places, error = reached(signal.SIGTERM, block)
    assert places == ["allowed", "held"]
    assert isinstance(error, SystemExit)


SLOW_LISTENER = """
import os, signal, time
from core.run import ending, signals

def tell(line):
    time.sleep(0.2)  # as a slow terminal does
    print(line, flush=True)

ending.tell = tell
signals.take_over(signals.EndAtOnce("too early", continues=True, grace_s=5))
try:
    with ending.Ending().catching():
        signal.raise_signal(signal.SIGTERM)
finally:
    os._exit(0)  # as a rank ends
"""


def test_a_process_that_leaves_at_once_has_told_and_recorded_it(tmp_path: Path) -> None:
    variables = {**os.environ, ends.FOLDER: str(tmp_path), "RANK": "0"}
    ended = subprocess.run(
        [sys.executable, "-c", SLOW_LISTENER], env=variables, capture_output=True, text=True, check=True
    )
    assert ended.stdout == "SIGTERM: ending; the same command continues the work\n"
    assert json.loads((tmp_path / "rank-0.json").read_text())["kind"] == "asked"


def test_a_forked_process_records_an_end_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ends.FOLDER, str(tmp_path))
    ends.record("asked", CONTINUABLE, "this process")
    ends.record("error", 1, "a later end of it")
    record = tmp_path / "rank-0.json"
    assert json.loads(record.read_text())["kind"] == "asked"
    child = start_forked(ends.record, "memory", 1, "the child")
    child.join()
    assert json.loads(record.read_text())["kind"] == "memory"


def test_another_thread_goes_on_without() -> None:
    done = []

    def work() -> None:
        with Ending().catching():
            done.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [True]


RANK = """
import atexit, os, sys, time
from core.run.ending import end_with

def main():
    atexit.register(print, "shutdown of the interpreter")
    print("some work")
    if sys.argv[1] == "raise":
        raise ValueError("broken")
    if sys.argv[1] == "exit":
        sys.exit("for a reason")
    return int(sys.argv[1])

end_with(main)
"""


@pytest.mark.parametrize(("how", "status"), [("0", 0), ("3", 3), ("raise", 1), ("exit", 1)])
def test_a_rank_ends_with_its_status_and_without_the_shutdown_of_the_interpreter(
    how: str, status: int
) -> None:
    done = subprocess.run([sys.executable, "-c", RANK, how], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (status, "some work\n")
    assert ("ValueError: broken" in done.stderr) == (how == "raise")
    assert ("for a reason" in done.stderr) == (how == "exit")


PROGRAM = """
import atexit, sys, threading, time
from core.run.ending import end_without_teardown

class Late:
    def __del__(self):
        print("teardown")

late = Late()

def main():
    atexit.register(print, "exit handler")
    threading.Thread(target=lambda: (time.sleep(0.2), print("thread"))).start()
    print("some work")
    if sys.argv[1] == "raise":
        raise ValueError("broken")
    if sys.argv[1] == "exit":
        sys.exit(7)
    return int(sys.argv[1])

end_without_teardown(main)
"""


@pytest.mark.parametrize(("how", "status"), [("0", 0), ("3", 3), ("raise", 1), ("exit", 7)])
def test_a_program_ends_with_its_status_after_its_threads_and_exit_handlers(how: str, status: int) -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=False)
    teardown = [] if how.isdigit() else ["teardown"]
    expected = ["some work", "thread", "exit handler", *teardown]
    assert (done.returncode, done.stdout.splitlines()) == (status, expected)
    assert ("ValueError: broken" in done.stderr) == (how == "raise")
