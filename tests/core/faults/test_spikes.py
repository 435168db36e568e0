"""Run: pytest tests/core/faults/test_spikes.py"""

from __future__ import annotations

import json
import math
import random
from typing import Any

import pytest
import torch

from core.distributed import ranks
from core.faults.spikes import WARM_UP, SpikeGuard
from tests.core.toy_run import STAGES, WIDTH, toy_engine


def steady(guard: SpikeGuard, count: int = 400) -> list[bool]:
    """Return log-normal norms around 0.2, as those of a healthy run."""
    noise = random.Random(3)
    return [guard.observe(0.2 * noise.lognormvariate(0, 0.3)) for _ in range(count)]


def test_a_healthy_run_has_no_spikes_and_a_spike_is_one() -> None:
    guard = SpikeGuard(6.0, 1.0)
    assert not any(steady(guard))
    assert 0.2 < guard.clipping <= 1.0
    assert guard.observe(50.0)


def test_a_spike_is_clipped_harder_than_the_config_asks() -> None:
    guard = SpikeGuard(3.0, 1.0)
    assert guard.clipping == 1.0
    steady(guard)
    assert guard.clipping == pytest.approx(0.2 * 2.718 ** (3 * 0.3), rel=0.25)


def test_many_spikes_do_not_excuse_the_next() -> None:
    guard = SpikeGuard(3.0, 0.0)
    steady(guard)
    before = guard.clipping
    assert all(guard.observe(1e6) for _ in range(3))
    assert guard.clipping < 3 * before


def test_it_waits_until_it_knows_what_is_usual_and_can_be_off() -> None:
    guard = SpikeGuard(3.0, 1.0)
    steady(guard, WARM_UP - 1)
    assert guard.clipping == 1.0
    guard.observe(0.2)
    assert guard.clipping < 1.0
    off = SpikeGuard(0.0, 0.0)
    assert not any(steady(off))
    assert not off.observe(1e9)
    assert off.clipping == 0.0


def test_state_comes_back_exactly_through_json() -> None:
    one, other = SpikeGuard(4.0, 1.0), SpikeGuard(4.0, 1.0)
    steady(one)
    other.load(json.loads(json.dumps(one.state())))
    assert [one.observe(0.3), one.clipping] == [other.observe(0.3), other.clipping]


@pytest.mark.parametrize("stage", STAGES)
def test_the_engine_clips_at_what_a_step_says(stage: Any) -> None:
    world = ranks.start("cpu", 60)
    masters = []
    for own, given in ((0.01, None), (1.0, 0.01), (1.0, None)):
        engine = toy_engine(world, zero_stage=stage, gradient_clipping=own)
        for _ in range(2):  # the second moment hides the size of a first gradient
            engine.backward(engine(torch.ones(4, WIDTH)).square().mean())
            norm = engine.step(1e-2, given).grad_norm
        assert norm > 0.01
        masters.append(torch.cat([m.flatten() for moment in engine.moments().values() for m in moment]))
    assert torch.equal(masters[0], masters[1])
    assert not torch.equal(masters[0], masters[2])


def test_statistics_are_those_of_the_logarithms_and_survive() -> None:
    guard = SpikeGuard(6.0, 0.0)
    for norm in (1.0, math.e):
        guard.observe(norm)
    assert guard.state() == pytest.approx([2, 0.5, 0.25])
    for _ in range(WARM_UP):
        guard.observe(1.0)
    other = SpikeGuard(6.0, 0.0)
    other.load(guard.state())
    assert other.state() == guard.state()
    assert other.clipping == guard.clipping > 0


def test_a_norm_of_zero_and_a_guard_that_is_off_count_nothing() -> None:
    guard, off = SpikeGuard(6.0, 1.0), SpikeGuard(0.0, 1.0)
    assert not guard.observe(0.0)
    assert not off.observe(2.0)
    assert guard.state() == off.state() == [0, 0.0, 0.0]
    assert off.clipping == 1.0
