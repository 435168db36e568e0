"""What a run says of its rest after a few steps."""

from __future__ import annotations

from core.train.outlook import COUNTED, FIRST, Outlook


def lines(steps: int, start: int = 0, count: int = 40, epoch: int = 100) -> list[str]:
    told: list[str] = []
    outlook = Outlook(steps, epoch, told.append)
    for step in range(start + 1, min(steps, start + count) + 1):
        slow = step - start <= FIRST
        outlook.count(step, 60.0 if slow else 0.5, 16 * step)
    return told


def test_it_says_once_what_the_rest_takes_and_buys() -> None:
    step = FIRST + COUNTED + 1
    rest = (1000 - step) * 0.5
    expected = (
        f"2 steps per second: {int(rest // 60)} min {round(rest % 60)} s for the {1000 - step} steps left; "
        "in the end 16,000 samples seen, 160 epochs of 100"
    )
    assert lines(1000) == [expected]


def test_a_continued_run_counts_what_was_seen_before() -> None:
    (told,) = lines(1000, start=900)
    assert told.endswith("in the end 16,000 samples seen, 160 epochs of 100")


def test_a_run_that_is_over_by_then_says_nothing() -> None:
    assert lines(FIRST + COUNTED + 1) == []


def test_without_an_epoch_there_is_none() -> None:
    assert lines(1000, epoch=0)[0].endswith("in the end 16,000 samples seen")
