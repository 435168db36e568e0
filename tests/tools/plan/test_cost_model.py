"""What samples cost, fitted to times."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tools.plan.measuring.cost_model import CostModel, Point, error_of, fit

TRUE = CostModel(micro_batch=3e-3, fixed=2e-4, linear=1e-5, quadratic=4e-9)
terms = st.sampled_from([0.0, 1.0, 3.0])


def points(model: CostModel, lengths: tuple[int, ...], noise: float = 0.0) -> list[Point]:
    draw = random.Random(5)
    return [
        Point(n, tokens, model.seconds(n, tokens) * (1 + draw.uniform(-noise, noise)))
        for tokens in lengths
        for n in (4, 8)
    ]


@given(terms, terms, st.sampled_from([1.0, 3.0]), terms)
def test_exact_times_give_back_the_cost(
    micro_batch: float, fixed: float, linear: float, square: float
) -> None:
    model = CostModel(3e-3 * micro_batch, 2e-4 * fixed, 1e-5 * linear, 4e-9 * square)
    found = fit(points(model, (64, 256, 1024, 4096)))
    for samples, tokens in [(1, 16), (7, 300), (64, 8192)]:
        assert found.seconds(samples, tokens) == pytest.approx(model.seconds(samples, tokens), rel=1e-4)


@pytest.mark.parametrize("lengths", [(80,), (16, 80), (16, 80, 256)])
def test_few_lengths_are_met_exactly_and_no_term_is_negative(lengths: tuple[int, ...]) -> None:
    seen = points(TRUE, lengths)
    found = fit(seen)
    assert error_of(found, seen) < 1e-6
    assert min(found.micro_batch, found.fixed, found.linear, found.quadratic) >= 0


def test_noise_is_averaged_and_not_followed_below_zero() -> None:
    seen = points(TRUE, (64, 256, 1024, 4096), noise=0.02)
    found = fit(seen)
    assert 0 < error_of(found, seen) < 0.03
    assert found.seconds(8, 512) == pytest.approx(TRUE.seconds(8, 512), rel=0.03)
    assert min(found.micro_batch, found.fixed, found.linear, found.quadratic) >= 0
