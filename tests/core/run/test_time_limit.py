"""A run ends before the scheduler ends its job. Run: pytest tests/core/run/test_time_limit.py"""

from __future__ import annotations

from pathlib import Path

import pytest

from core import environment
from core.distributed.ranks import World
from core.run.early_end import EarlyEnd
from core.run.time_limit import TimeLimit


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def last_step(limit: TimeLimit, clock: Clock, step_s: float) -> float:
    """Return when the step begins after which the run ends."""
    while not limit.is_near():
        clock.now += step_s
        assert clock.now < 3000
    return clock.now


def test_the_last_step_leaves_time_for_itself_and_a_save() -> None:
    clock = Clock()
    begins = last_step(TimeLimit(2000, lambda: 100, clock), clock, step_s=7)
    assert begins + 7 + 1.5 * 100 + 30 <= 2000 + 7  # noticed at most one step late
    assert 2000 - begins < 1.5 * 100 + 7 + 30


def test_the_longest_step_counts() -> None:
    clock = Clock()
    limit = TimeLimit(2000, lambda: 0, clock)
    limit.is_near()
    clock.now += 200
    assert not limit.is_near()
    assert 2000 - last_step(limit, clock, step_s=1) == pytest.approx(229)


def test_without_a_limit_a_run_goes_on(world: World) -> None:
    limit = TimeLimit(None)
    assert not limit.is_near()
    assert not EarlyEnd(world).flag(0)


def test_a_run_asks_itself_to_end(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(environment.END_TIME, "1000")
    end = EarlyEnd(world)
    end.begin(3, 10)
    assert end.flag(3)
    end.agreed = True
    said = str(end.over(Path("run"), 4, saved=True))
    assert "ended early on the time limit, saved after step 4 of 10" in said
