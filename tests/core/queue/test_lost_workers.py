"""Workers that are killed: their units are done by others, and only a proven poison is given up."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from core.queue.config import QueueConfig
from core.queue.leases import Leases, LeaseState
from core.queue.work_queue import WorkQueue
from core.root import ROOT
from tests.core.queue.test_work_queue import UNITS, do, make_old, make_queue

WORKER = """
import os, signal, sys
from pathlib import Path
from core.errors import WorkError
from tests.core.queue.test_work_queue import do, make_queue
folder, last, failing = Path(sys.argv[1]), sys.argv[2], sys.argv[3].split(",")
def work(unit):
    if unit == last:
        os.kill(os.getpid(), signal.SIGKILL)
    if unit in failing:
        raise WorkError("no good")
    do(folder, unit)
make_queue(folder).work(work)
"""


def start(folder: Path, *, dies_at: str = "", failing: str = "") -> subprocess.Popen[str]:
    """Start a worker in a process of its own."""
    command = [sys.executable, "-c", WORKER, str(folder), dies_at, failing]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, cwd=ROOT)


def lose(folder: Path, unit: str, count: int, *, finished: int = 0) -> None:
    """Let workers take the unit one after the other and never be heard of again."""
    for _ in range(count):
        leases = Leases(folder / "leases", timeout_s=60, owner="lost")
        leases.finished = finished
        assert leases.claim(unit) is not None
        make_old(folder, unit, 61)


def run(queue: WorkQueue, folder: Path) -> list[str]:
    """Do the units left; return them in the order in which they were done."""
    order: list[str] = []
    queue.work(lambda unit: (order.append(unit), do(folder, unit))[0])
    return order


@pytest.mark.multiprocess
def test_no_worker_dies_where_many_meet_units_that_fail(tmp_path: Path) -> None:
    make_queue(tmp_path)
    failing = UNITS[::2]
    workers = [start(tmp_path, failing=",".join(failing)) for _ in range(8)]
    said = [worker.communicate()[1] for worker in workers]
    assert [worker.returncode for worker in workers] == [0] * 8
    lines = [line for text in said for line in text.splitlines()]
    assert [line for line in lines if " failed and is tried again: " not in line] == []
    failures = make_queue(tmp_path).failures()
    assert [(failure.unit, failure.final, len(failure.errors)) for failure in failures] == [
        (unit, True, 3) for unit in failing
    ]
    assert {path.name for path in (tmp_path / "done").iterdir()} == set(UNITS) - set(failing)


@pytest.mark.multiprocess
def test_a_good_unit_outlives_the_kill_of_four_workers(tmp_path: Path) -> None:
    """All of these workers had finished other units, or may have."""
    make_queue(tmp_path)
    for _ in range(4):
        worker = start(tmp_path, dies_at="005")
        worker.communicate()
        assert worker.returncode == -signal.SIGKILL
        make_old(tmp_path, "005", 61)
    queue = make_queue(tmp_path)
    assert "005" in run(queue, tmp_path)
    assert queue.left() == queue.failures() == []
    assert queue.leases.states() == []


def test_a_suspect_unit_is_named_and_comes_after_those_that_failed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    queue = make_queue(tmp_path)
    lose(tmp_path, "007", 21, finished=0)
    lose(tmp_path, "008", 20, finished=5)
    (tmp_path / "leases" / "003.failure.json").write_text('{"errors": ["once"], "final": false}')
    assert queue.left() == [*(unit for unit in UNITS if unit != "003"), "003"]
    order = run(queue, tmp_path)
    assert order[-3:] == ["008", "003", "007"]
    assert sorted(order) == UNITS
    said = capsys.readouterr().err.splitlines()
    assert said == [
        "warning: unit 007 is suspect and is tried last: it lost 21 workers in a row, "
        "0 of which had finished other units"
    ]


@pytest.mark.parametrize(
    ("most", "fresh", "proven", "given_up"),
    [
        (2, 2, 2, False),
        (2, 0, 3, True),
        (2, 3, 0, False),
        (2, 1, 3, True),
        (2, 0, 2, False),
        (3, 0, 3, False),
    ],
)
def test_only_three_workers_that_had_finished_other_units_give_a_unit_up(
    tmp_path: Path, most: int, fresh: int, proven: int, given_up: bool
) -> None:
    queue = make_queue(tmp_path, QueueConfig(timeout_s=60, heartbeat_s=0.02, losses=most))
    lose(tmp_path, "004", proven, finished=1)
    lose(tmp_path, "004", fresh)
    order = run(queue, tmp_path)
    assert ("004" not in order) == given_up
    failures = [(f.unit, f.final, f.lost, f.errors) for f in queue.failures()]
    why = f"lost {fresh + proven} workers in a row, 3 of which had finished other units"
    assert failures == ([("004", True, True, (why,))] if given_up else [])


def test_a_new_start_forgets_losses_and_what_was_given_up_for_them(tmp_path: Path) -> None:
    few = QueueConfig(timeout_s=60, heartbeat_s=0.02, losses=2)
    lose(tmp_path, "004", 3, finished=1)
    lose(tmp_path, "006", 3, finished=1)
    (tmp_path / "leases" / "009.failure.json").write_text('{"errors": ["a", "b", "c"], "final": true}')
    worker = make_queue(tmp_path, few)
    worker.leases.claim("004")  # by a worker that lives on
    make_queue(tmp_path, few).work(lambda unit: do(tmp_path, unit), lambda _: make_old(tmp_path, "004", 61))
    assert [failure.unit for failure in worker.failures()] == ["004", "006", "009"]
    lose(tmp_path, "004", 3, finished=1)
    make_queue(tmp_path, few).forget_losses()
    assert [failure.unit for failure in worker.failures()] == ["009"]
    assert [state.losses.workers for state in worker.leases.states()] == [0]
    lose(tmp_path, "004", 1, finished=1)
    assert [state.losses.workers for state in worker.leases.states()] == [1]
    assert sorted(run(worker, tmp_path)) == ["004", "006"]


def test_a_new_start_forgets_losses_of_units_that_were_not_given_up(tmp_path: Path) -> None:
    queue = make_queue(tmp_path)
    lose(tmp_path, "004", 1)
    queue.forget_losses()
    assert [state.losses.workers for state in queue.leases.states()] == [0]


def test_a_unit_whose_losses_are_forgotten_is_no_longer_suspect(tmp_path: Path) -> None:
    queue = make_queue(tmp_path)
    lose(tmp_path, "007", 21)
    queue.forget_losses()
    (tmp_path / "leases" / "003.failure.json").write_text('{"errors": ["once"], "final": false}')
    assert run(queue, tmp_path)[-1] == "003"


@pytest.mark.parametrize(("lost", "said"), [(2, 0), (3, 1)])
def test_a_suspect_unit_is_named_once_however_long_it_is_waited_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], lost: int, said: int
) -> None:
    """The worker that holds it now lives, and does not count."""
    lose(tmp_path, "004", lost)
    assert Leases(tmp_path / "leases", timeout_s=60, owner="alive").claim("004") is not None
    waits = list[str]()

    def wait(states: list) -> None:
        waits.extend(state.unit for state in states)
        if len(waits) == 3:
            do(tmp_path, "004")

    make_queue(tmp_path, QueueConfig(timeout_s=60, heartbeat_s=0.02, losses=2)).work(
        lambda unit: do(tmp_path, unit), wait
    )
    assert waits == ["004"] * 3
    assert capsys.readouterr().err.count("is suspect") == said


def test_a_lease_that_was_given_back_while_it_was_looked_at_makes_no_unit_suspect(tmp_path: Path) -> None:
    queue = make_queue(tmp_path)
    lose(tmp_path, "007", 21)
    (tmp_path / "leases" / "003.failure.json").write_text('{"errors": ["once"], "final": false}')
    state, gone = queue.leases.state, list[str]()

    def given_back(unit: str, generation: int) -> LeaseState:
        if not gone:
            gone.append(unit)
            raise FileNotFoundError
        return state(unit, generation)

    queue.leases.state = given_back  # type: ignore[method-assign]
    assert run(queue, tmp_path)[-1] == "003"
    assert gone == ["007"]


def test_a_first_start_writes_nothing(tmp_path: Path) -> None:
    make_queue(tmp_path).forget_losses()
    assert list((tmp_path / "leases").iterdir()) == []


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"owner": 3, "lost": "x", "finished": -1}', "\x00\xff", "[" * 9999]
)
def test_a_lease_that_says_nothing_expires_like_any_other(tmp_path: Path, text: str) -> None:
    queue = make_queue(tmp_path)
    path = tmp_path / "leases" / "000.000000.lease"
    path.write_bytes(text.encode("latin-1"))
    (tmp_path / "leases" / "notes.lease").touch()  # another program's
    assert [state.unit for state in queue.leases.states()] == ["000"]
    assert queue.leases.claim("000") is None
    os.utime(path, (1, 1))
    assert sorted(run(queue, tmp_path)) == UNITS


def test_a_lease_of_an_earlier_version_counts_as_one_lost_worker(tmp_path: Path) -> None:
    queue = make_queue(tmp_path)
    path = tmp_path / "leases" / "000.000002.lease"
    path.write_text(json.dumps({"owner": "node7:1", "token": "ab"}))
    os.utime(path, (1, 1))
    (state,) = queue.leases.states()
    assert (state.owner, state.generation, state.losses.workers, state.losses.proven) == ("node7:1", 2, 1, 0)
    assert sorted(run(queue, tmp_path)) == UNITS


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"errors": [], "final": true}', '{"errors": "x", "final": 1}', "\xff\xfe"]
)
def test_a_damaged_failure_counts_as_one_and_the_unit_is_tried_again(tmp_path: Path, text: str) -> None:
    queue = make_queue(tmp_path)
    path = tmp_path / "leases" / "005.failure.json"
    path.write_bytes(text.encode("latin-1"))
    (failure,) = queue.failures()
    assert failure.errors == (f"{path} is damaged: what failed is not known",)
    assert not failure.final
    assert run(queue, tmp_path)[-1] == "005"
    assert queue.failures() == []


CALLS = (
    "builtins.open",
    "io.open",
    "os.open",
    "os.listdir",
    "os.stat",
    "os.unlink",
    "os.utime",
    "os.replace",
)


@pytest.mark.parametrize("count", [100, 1000])
def test_a_claim_costs_a_few_calls_however_many_units_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    finished: set[str] = set()
    units = [f"{number:06d}" for number in range(count)]
    quiet = QueueConfig(timeout_s=600, heartbeat_s=300)
    queue = WorkQueue(
        tmp_path / "leases", units, quiet, list_done=lambda: set(finished), is_done=finished.__contains__
    )
    made: list[str] = []
    for name in CALLS:
        module, _, attribute = name.rpartition(".")
        plain = getattr(importlib.import_module(module), attribute)

        def counted(*args, name=name, plain=plain, **options):
            made.append(name)
            return plain(*args, **options)

        monkeypatch.setattr(name, counted)
    queue.work(finished.add)
    monkeypatch.undo()
    assert finished == set(units)
    assert made.count("os.listdir") <= 8  # for one look at all at first, one when nothing was left
    assert 3 * count < len(made) <= 10 * count
