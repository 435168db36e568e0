"""Run: pytest tests/data/loading/test_ahead.py"""

from __future__ import annotations

import itertools
import threading
import weakref

import pytest

from data.loading.ahead import read_ahead


class Thing:
    """An object whose release can be watched."""

    def __init__(self, number: int) -> None:
        self.number = number


def test_read_ahead_is_bounded_and_raises_where_the_result_is_due():
    made: list[int] = []

    def make(number: int) -> int:
        made.append(number)
        if number == 4:
            raise RuntimeError("at 4")
        return number

    results = read_ahead(make, 2, 2)
    assert list(itertools.islice(results, 2)) == [2, 3]
    with pytest.raises(RuntimeError, match="at 4"):
        next(results)
    assert max(made) <= 5


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_it_ends_where_it_is_told_to(depth: int) -> None:
    assert list(read_ahead(lambda number: number, 3, depth, 6)) == [3, 4, 5]
    assert list(read_ahead(lambda number: number, 3, depth, 3)) == []


def test_the_thread_lets_go_of_what_was_used_and_not_before() -> None:
    gone: list[tuple[int, str]] = []

    def make(number: int) -> Thing:
        thing = Thing(number)
        weakref.finalize(thing, lambda: gone.append((number, threading.current_thread().name)))
        return thing

    things = read_ahead(make, 0, 1)
    for number in range(5):
        assert next(things).number == number
        assert gone[: max(number - 1, 0)] == [(before, "read-ahead") for before in range(number - 1)]
        assert number not in [n for n, _ in gone]
    things.close()
    assert len(gone) >= 5  # and one that may have been made in between


def test_closing_waits_for_the_call_under_way() -> None:
    began, may_end, made = threading.Event(), threading.Event(), []

    def make(number: int) -> int:
        if number:
            began.set()
            may_end.wait()
        made.append(number)
        return number

    results = read_ahead(make, 0, 4)
    assert next(results) == 0
    began.wait()
    closing = threading.Thread(target=results.close)
    closing.start()
    may_end.set()
    closing.join()
    assert made[:2] == [0, 1]
    assert not [t for t in threading.enumerate() if t.name.startswith("read-ahead")]
