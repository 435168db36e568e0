"""Run: pytest tests/core/reading/test_side_threads.py"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Barrier, Thread, get_native_id
from typing import TypeVar

import pytest
import torch

from core.checkpoint.save_thread import _in_background
from core.reading.shared_work import shared
from core.reading.side_threads import all_threads, number_of_threads, side_thread
from data.loading.ahead import read_ahead

T = TypeVar("T")
LARGE = 1 << 20  # elements, of which torch computes by all its threads
COUNTED = pytest.mark.skipif(sys.platform != "linux", reason="threads of OpenMP are counted in /proc")


@pytest.fixture(autouse=True)
def three() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    torch.ones(LARGE).sum()  # this thread has its team
    yield
    torch.set_num_threads(before)


def beside(work: Callable[[], T]) -> T:
    """Return what `work` gives in a side thread."""
    results: list[T] = []
    thread = side_thread(lambda: results.append(work()), name="side")
    thread.start()
    thread.join()
    return results[0]


def number_elsewhere() -> list[int]:
    """Return torch's numbers in this thread and in one that begins now."""
    later: list[int] = []
    thread = Thread(target=lambda: later.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    return [torch.get_num_threads(), *later]


def team_of(name: str) -> int:
    """Compute by all threads that torch takes here; return how many were started for that by this one.

    A thread has the name of the one that started it, until it gets one of its own.
    """
    tasks = Path("/proc/self/task")
    (tasks / str(get_native_id()) / "comm").write_text(name)
    torch.ones(LARGE).mul_(2).sum()
    return [name_of(task) for task in tasks.iterdir()].count(name) - 1


def name_of(task: Path) -> str:
    """Return the name of a thread; empty if it ended since it was listed, as those of other tests do."""
    try:
        return (task / "comm").read_text().rstrip("\n")
    except (FileNotFoundError, ProcessLookupError):
        return ""


def test_torch_computes_by_one_thread_there_and_by_as_many_as_before_elsewhere() -> None:
    assert beside(lambda: (torch.get_num_threads(), number_of_threads())) == (1, 3)
    assert number_elsewhere() == [3, 3]
    assert number_of_threads() == 3


def test_all_threads_may_be_asked_for_and_end_with_the_block() -> None:
    def work() -> list[int]:
        found = []
        with all_threads():
            found += [torch.get_num_threads(), number_of_threads()]
        return [*found, torch.get_num_threads()]

    assert beside(work) == [3, 3, 1]
    assert work() == [3, 3, 3]
    assert number_elsewhere() == [3, 3]


def test_reads_are_shared_by_as_many_threads_as_elsewhere() -> None:
    together = Barrier(3, timeout=30)
    beside(lambda: shared(range(3), lambda piece: together.wait()))  # each piece waits for the other two


@COUNTED
def test_threads_that_read_ahead_and_write_saves_have_no_team_of_openmp() -> None:
    """A process so has as many threads of OpenMP as its rank may compute in, and those that wait may spin."""
    batches = read_ahead(lambda number: team_of("reading"), 0, 1)
    assert [next(batches), next(batches)] == [0, 0]
    batches.close()
    assert _in_background(lambda: str(team_of("writing"))).result() == "0"
    found: list[int] = []
    plain = Thread(target=lambda: found.append(team_of("plain")))  # as it would be without
    plain.start()
    plain.join()
    assert found == [2]
