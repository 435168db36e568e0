"""Seconds per sample by shape: the slow first one is left out, reported once, by the test's own clock."""

from __future__ import annotations

import torch

from core.batch import Batch
from core.metrics import shape_times
from core.metrics.shape_times import EACH, ShapeTimes

SMALL, LARGE = (1, 2), (1, 4)
CPU = torch.device("cpu")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def batch(samples: int, shape: tuple[int, ...]) -> Batch:
    rows = torch.arange(samples)
    return Batch(torch.zeros(samples, *shape), rows, rows, torch.ones(samples))


def run(times: ShapeTimes, clock: Clock, *step: tuple[int, tuple[int, ...], float]) -> None:
    for samples, shape, seconds in step:
        times.begin(batch(samples, shape))
        clock.now += seconds
    times.end()
    clock.now += 1000  # the update, and waiting for data


def test_medians_without_the_first_are_told_once() -> None:
    told: list[dict[tuple[int, ...], float]] = []
    clock = Clock()
    times = ShapeTimes([SMALL, LARGE], CPU, told.append, clock)
    run(times, clock, (4, SMALL, 90.0), (2, LARGE, 70.0))
    for seconds in (8.0, 4.0, 40.0):
        assert told == []
        run(times, clock, (4, SMALL, seconds), (2, LARGE, 6.0), (1, LARGE, 3.0))
    assert told == [{SMALL: 2.0, LARGE: 3.0}]
    run(times, clock, (4, SMALL, 1.0))
    times.finish()
    assert len(told) == 1


def test_a_shape_that_is_rare_does_not_keep_the_others_waiting_for_ever() -> None:
    told: list[dict[tuple[int, ...], float]] = []
    clock = Clock()
    times = ShapeTimes([SMALL, LARGE], CPU, told.append, clock)
    for _ in range(shape_times.MOST_STEPS):
        assert told == []
        run(times, clock, (1, SMALL, 5.0))
    assert told == [{SMALL: 5.0}]


def test_a_short_run_tells_what_it_saw() -> None:
    told: list[dict[tuple[int, ...], float]] = []
    clock = Clock()
    times = ShapeTimes([SMALL], CPU, told.append, clock)
    run(times, clock, (1, SMALL, 5.0))
    run(times, clock, (1, SMALL, 2.0))
    assert EACH > 1
    times.finish()
    assert told == [{SMALL: 2.0}]
