"""The largest divisor that fits, from bytes of one and of two samples."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.memory.micro_batch import Measured, choose, divisors
from core.memory.state import ParameterGroup, TrainingState

traces = st.lists(st.tuples(st.integers(0, 10**6), st.integers(-10, 10**6)), min_size=1, max_size=8)


def measured(pairs: list[tuple[int, int]]) -> Measured:
    return Measured([a for a, _ in pairs], [max(0, a + b) for a, b in pairs])


@given(traces, st.integers(1, 300), st.integers(0, 10**9), st.integers(0, 10**9))
def test_the_choice_divides_fits_and_grows_with_the_room(
    pairs: list[tuple[int, int]], share: int, budget: int, more: int
) -> None:
    found = measured(pairs)
    chosen = choose(share, found, budget)
    assert share % chosen == 0
    assert chosen == 1 or found.bytes(chosen) <= budget
    assert all(found.bytes(larger) > budget for larger in divisors(share) if larger > chosen)
    assert choose(share, found, budget + more) >= chosen


@given(traces, st.integers(1, 300), st.integers(1, 300))
def test_bytes_never_fall_with_samples(pairs: list[tuple[int, int]], one: int, more: int) -> None:
    assert measured(pairs).bytes(one + more) >= measured(pairs).bytes(one)


def test_what_is_small_in_two_samples_may_be_the_peak_of_many() -> None:
    """Memory of its own weights hides what grows: a line through the peaks would miss it."""
    found = Measured([100, 10], [101, 30])
    assert [found.bytes(n) for n in (1, 2, 3, 10)] == [100, 101, 102, 190]


def test_where_operations_differ_a_line_through_the_peaks_counts() -> None:
    assert Measured([5, 20], [9, 30, 8]).bytes(4) == 50


@pytest.mark.parametrize(
    ("share", "budget", "expected"), [(256, 100, 64), (96, 100, 96), (7, 6, 1), (8, 0, 1)]
)
def test_the_largest_divisor(share: int, budget: int, expected: int) -> None:
    assert choose(share, Measured([1], [2]), budget) == expected


@pytest.mark.parametrize("bf16", [True, False])
def test_later_stages_and_more_ranks_take_less(bf16: bool) -> None:
    """As ZeRO promises, for a state that is far larger than the buckets it is sent in."""
    numbers = 10**10

    def total(stage: int, ranks: int) -> int:
        groups = [ParameterGroup([(numbers,)])]
        state = TrainingState(groups=groups, ranks=ranks, zero_stage=stage, bf16=bf16)
        return sum(state.parts().values())

    for stage in (1, 2, 3):
        assert total(stage, 2) > total(stage, 8) > total(stage, 64)
        assert total(stage, 64) < total(stage - 1, 64)
    assert total(0, 1) == total(0, 64)


def test_the_parts_of_a_small_state_are_known() -> None:
    """AdamW in mixed precision: 2 + 4 + 8 bytes a number, and gradients (arXiv:1910.02054, section 3.1)."""
    parts = TrainingState(groups=[ParameterGroup([(1000,)])], zero_stage=1, averages=0).parts()
    assert parts == {
        "weights": 2000,
        "masters": 4000,
        "gradients": 6000,  # of a micro-step in bf16, and their sum in fp32
        "moments": 8000,
        "communication": 2 << 20,  # the least bucket
    }
