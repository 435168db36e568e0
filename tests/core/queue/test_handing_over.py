"""Pieces go to a thread as they come. Run: pytest tests/core/queue/test_handing_over.py"""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from core.queue.handing_over import WAITING, HandingOver

MANY = 4 * WAITING


def test_pieces_arrive_in_order_while_others_are_made() -> None:
    found: list[int] = []
    second = threading.Event()

    def take(pieces: Iterator[int]) -> None:
        found.append(next(pieces))
        assert second.wait(60)
        found.extend(pieces)

    handing = HandingOver("test", take)
    handing.start()
    handing.add(0)
    handing.add(1)  # nobody waits for the thread to be done with the first
    second.set()
    for number in range(2, MANY):
        handing.add(number)
    handing.close()
    handing.finish()
    assert found == list(range(MANY))


@pytest.mark.parametrize("after", [0, 1, MANY, MANY + 1])
def test_a_failure_of_the_thread_is_raised_and_nobody_waits_for_it(after: int) -> None:
    def take(pieces: Iterator[int]) -> None:
        for number, _ in enumerate(pieces):
            if number + 1 >= after:
                break
        raise OSError("no room")

    def hand_over() -> None:
        handing = HandingOver("test", take)
        handing.start()
        for number in range(MANY):
            handing.add(number)
        handing.close()
        handing.finish()

    with pytest.raises(OSError, match="no room"):
        hand_over()
    failed = HandingOver("test", take)
    failed.start()
    failed.give_up()


def test_a_thread_that_has_failed_before_anything_is_done_holds_nobody_up() -> None:
    def take(pieces: Iterator[int]) -> None:
        raise OSError("no room")

    for _ in range(200):  # the thread often fails before its maker goes on
        handing = HandingOver("test", take)
        handing.start()
        handing.give_up()


def test_closed_the_thread_ends_though_nobody_waits_for_it() -> None:
    ended = threading.Event()

    def take(pieces: Iterator[int]) -> None:
        list(pieces)
        ended.set()

    handing = HandingOver("test", take)
    handing.start()
    handing.add(0)
    handing.close()
    assert ended.wait(60)


def test_none_is_started_before_somebody_can_stop_it() -> None:
    def take(pieces: Iterator[int]) -> None:
        list(pieces)

    before = threading.active_count()
    HandingOver("test", take)
    assert threading.active_count() == before


def test_given_up_the_thread_sees_an_error_and_has_ended() -> None:
    seen: list[str] = []

    def take(pieces: Iterator[int]) -> None:
        try:
            list(pieces)
        finally:
            seen.append("undone")

    handing = HandingOver("test", take)
    handing.start()
    handing.add(0)
    handing.give_up()
    assert seen == ["undone"]
