"""Groups of all shapes that take the same time, as far as whole samples allow."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import UserError
from core.memory.micro_batch import divisors
from data.order.buckets import GroupConfig, group_sizes
from tests.tools.plan.test_cost_model import TRUE
from tools.plan.measuring.cost_model import CostModel
from tools.plan.measuring.even_groups import CLOSE, EVEN, GroupTimes, choose, even_size, spread

DEMO = [16, 80]  # tokens of the demo's images and clips
ASPECTS = [196, 198, 204, 208, 210, 216, 224, 240, 252]


def whole(_: int, share: int) -> int:
    return share


def dividing(most: int) -> Callable[[int, int], int]:
    """Return the largest divisor of a share that is at most so much, as training chooses micro-batches."""
    return lambda _, share: next(number for number in divisors(share) if number <= most)


def times(model: CostModel, tokens: list[int], ranks: int = 1, at_once=whole) -> GroupTimes:
    return GroupTimes(model, tokens, at_once, [1 / len(tokens)] * len(tokens), ranks)


@pytest.mark.parametrize("ranks", [1, 4])
@pytest.mark.parametrize("most", [8, 64, 10_000])
def test_chosen_groups_take_the_same_time(ranks: int, most: int) -> None:
    tokens, data = [64, 300, 1100], GroupConfig(group_size=1024, rank_multiple=4)
    of = GroupTimes(TRUE, tokens, lambda _, share: min(most, share), [0.5, 0.3, 0.2], ranks)
    chosen = choose(of, data)
    assert chosen.sizes == group_sizes(tokens, chosen.data)
    assert all(size % ranks == 0 for size in chosen.sizes)
    assert 512 <= chosen.sizes[0] <= 2048
    assert chosen.spread == pytest.approx(of.spread(chosen.sizes))
    assert chosen.spread <= EVEN
    assert of.spread(group_sizes(tokens, data)) > 4 * EVEN


@settings(max_examples=12)
@given(st.floats(0, 0.05), st.floats(0, 3e-3), st.floats(1e-4, 1e-3), st.floats(0, 5e-6))
def test_the_demo_s_groups_can_always_be_even(
    micro_batch: float, fixed: float, linear: float, square: float
) -> None:
    """Whatever its images and clips cost; in multiples of 16 they are not, with any of these costs."""
    of = times(CostModel(micro_batch, fixed, linear, square), DEMO)
    data = GroupConfig(group_size=16, rank_multiple=16)
    chosen = choose(of, data)
    assert chosen.spread <= EVEN
    assert chosen.sizes == group_sizes(DEMO, chosen.data)
    assert 8 <= chosen.sizes[0] <= 32
    assert data.rank_multiple % chosen.data.rank_multiple == 0


@pytest.mark.parametrize("ranks", [1, 2, 4, 8])
def test_multiples_stay_as_large_as_they_can_and_ranks_divide_them(ranks: int) -> None:
    data = GroupConfig(group_size=1024, rank_multiple=8)
    of = times(TRUE, [64, 300], ranks)
    assert choose(of, data).data.rank_multiple == 8
    small = GroupConfig(group_size=48, rank_multiple=8)
    chosen = choose(of, small)
    assert chosen.data.rank_multiple in {multiple for multiple in (1, 2, 4, 8) if multiple >= ranks}
    assert chosen.spread < of.spread(group_sizes(of.tokens, small))


def test_pictures_of_many_aspects_are_even_in_one_batch() -> None:
    of = times(TRUE, ASPECTS)
    assert choose(of, GroupConfig(group_size=256, rank_multiple=8)).spread <= EVEN


def test_shares_that_do_not_divide_into_micro_batches_are_not_taken() -> None:
    """A share of a prime number of samples would be taken one by one: even, and slow."""
    of = times(TRUE, DEMO, at_once=dividing(8))
    chosen = choose(of, GroupConfig(group_size=64, rank_multiple=8))
    assert chosen.spread <= EVEN
    seconds = of.seconds(chosen.sizes)
    for bucket, size in enumerate(chosen.sizes):
        best = -(-size // 8) * TRUE.micro_batch + size * TRUE.sample(DEMO[bucket])
        assert seconds[bucket] <= 1.05 * best


def test_where_none_is_even_a_size_is_named_that_is() -> None:
    data = GroupConfig(group_size=16, rank_multiple=8)
    of = times(TRUE, [64, 300, 1100], ranks=8)
    chosen = choose(of, data)
    assert chosen.spread > EVEN
    larger = even_size(of, data)
    assert larger is not None
    assert larger > chosen.sizes[0]
    assert choose(of, GroupConfig(group_size=larger, rank_multiple=8)).spread <= EVEN


def test_where_no_size_is_even_none_is_named() -> None:
    data = GroupConfig(group_size=1024, rank_multiple=1024)
    assert even_size(times(TRUE, [64, 300, 1100, 7000], ranks=1024), data) is None


def test_sizes_stay_near_the_configured_ones_where_these_are_even_enough() -> None:
    data = GroupConfig(
        group_size=1000, rank_multiple=1, cost_linear=TRUE.linear, cost_quadratic=TRUE.quadratic
    )
    chosen = choose(times(TRUE, [64, 1100]), data)
    assert chosen.sizes[0] == pytest.approx(1000, abs=20)
    assert chosen.spread <= CLOSE


def test_groups_that_ranks_could_not_share_are_refused() -> None:
    with pytest.raises(UserError, match=r"data.rank_multiple=6: expected a multiple of the 4 data-parallel"):
        choose(times(TRUE, [64], ranks=4), GroupConfig(rank_multiple=6))


def test_a_bucket_without_groups_spreads_nothing() -> None:
    assert spread([1.0, 9.0, 1.0], [0.5, 0.0, 0.5]) == 0
    assert spread([1.0, 3.0], [0.5, 0.5]) == 1


def test_what_groups_really_take_corrects_the_choice() -> None:
    """Where a device is not as the model says, such as a cache that small groups fit into."""
    of, data = times(TRUE, DEMO), GroupConfig(group_size=16, rank_multiple=16)

    def really(sizes: list[int]) -> list[float]:
        return [longer * second for longer, second in zip((0.94, 1.02), of.seconds(sizes), strict=True)]

    first = choose(of, data)
    assert spread(really(first.sizes), of.shares) > EVEN
    second = choose(of.corrected(first.sizes, really(first.sizes)), data)
    assert spread(really(second.sizes), of.shares) == pytest.approx(second.spread)
    assert second.spread <= EVEN
