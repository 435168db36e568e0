"""What samples cost, fitted to times, and groups that take the same time."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import UserError
from data.order.buckets import GroupConfig, group_sizes
from tools.plan.cost_model import CLOSE, EVEN, CostModel, Point, choose, error_of, fit, spread

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


@pytest.mark.parametrize("ranks", [1, 4])
@pytest.mark.parametrize("most", [8, 64, 10_000])
def test_chosen_groups_take_the_same_time(ranks: int, most: int) -> None:
    tokens, shares = [64, 300, 1100], [0.5, 0.3, 0.2]
    data = GroupConfig(group_size=1024, rank_multiple=4)
    chosen = choose(TRUE, tokens, lambda _, share: min(most, share), shares, ranks, data)
    assert chosen.sizes == group_sizes(tokens, chosen.data)
    assert all(size % ranks == 0 for size in chosen.sizes)
    assert 512 <= chosen.sizes[0] <= 2048
    took = [
        TRUE.share_seconds(n // ranks, min(most, n // ranks), s)
        for n, s in zip(chosen.sizes, tokens, strict=True)
    ]
    assert chosen.spread == pytest.approx(spread(took, shares))
    assert chosen.spread <= EVEN
    before = group_sizes(tokens, data)
    configured = [
        TRUE.share_seconds(n // ranks, min(most, n // ranks), s) for n, s in zip(before, tokens, strict=True)
    ]
    assert spread(configured, shares) > 4 * EVEN


def test_sizes_stay_near_the_configured_ones_where_these_are_even_enough() -> None:
    data = GroupConfig(
        group_size=1000, rank_multiple=1, cost_linear=TRUE.linear, cost_quadratic=TRUE.quadratic
    )
    chosen = choose(TRUE, [64, 1100], lambda _, share: share, [0.5, 0.5], 1, data)
    assert chosen.sizes[0] == pytest.approx(1000, abs=20)
    assert chosen.spread <= CLOSE


def test_groups_that_ranks_could_not_share_are_refused() -> None:
    with pytest.raises(UserError, match=r"data.rank_multiple=6: expected a multiple of the 4 data-parallel"):
        choose(TRUE, [64], lambda _, share: share, [1.0], 4, GroupConfig(rank_multiple=6))


def test_a_bucket_without_groups_spreads_nothing() -> None:
    assert spread([1.0, 9.0, 1.0], [0.5, 0.0, 0.5]) == 0
    assert spread([1.0, 3.0], [0.5, 0.5]) == 1
