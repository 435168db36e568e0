"""Steps cut for the ranks. Run: pytest tests/data/order/test_steps.py"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from core.distributed.agreement import order_hash
from core.errors import UserError
from data.order import steps
from data.order.bucket_rows import BucketRows, count_buckets
from data.order.buckets import GroupSizeError
from data.order.plan_report import bucket_lines, time_lines
from data.order.steps import BucketSamples, LoaderConfig, StepPlan, group_shares

IMAGES, CLIPS = 40, 12  # samples
# Images of 64 tokens in groups of 16, clips of 256 tokens in groups of 4.
CONFIG: dict[str, Any] = {"group_size": 16, "rank_multiple": 4, "cost_quadratic": 0.0, "groups_per_step": 3}


def rows_of(count: int, first: int = 0) -> BucketRows:
    """Return `count` rows of one bucket from `first` on, in shards of five rows."""
    column = np.r_[np.ones(first), np.zeros(count)].astype(np.uint16)
    starts = np.r_[np.arange(0, first + count, 5), first + count]
    return BucketRows(column, starts, 0, count_buckets(column, starts, 2)[:, 0])


def buckets(sources: tuple[str, str] = ("", "")) -> list[BucketSamples]:
    return [
        BucketSamples("1x8x8", rows_of(IMAGES), 64, False, 0, sources[0]),
        BucketSamples("5x8x8", rows_of(CLIPS, IMAGES), 256, True, 1, sources[1]),
    ]


def plan(rank: int = 0, ranks: int = 1, micro_batch: int = 0, mix=(), **more: Any) -> StepPlan:
    config = LoaderConfig(**CONFIG | more)
    return StepPlan(buckets(), config, rank=rank, ranks=ranks, seed=5, micro_batch=micro_batch, mix=mix)


@pytest.mark.parametrize(("ranks", "micro_batch"), [(2, 0), (2, 3), (4, 1)])
def test_ranks_cut_the_groups_of_a_step_in_their_order(ranks: int, micro_batch: int) -> None:
    groups = plan().order.step(7)
    found = [plan(rank, ranks, micro_batch).micro_batch_rows(7) for rank in range(ranks)]
    most = micro_batch or 16 // ranks
    for pieces in found:
        assert all(0 < len(piece.rows) <= most for piece in pieces)
        assert [(p.bucket, len(p.rows)) for p in pieces] == [(p.bucket, len(p.rows)) for p in found[0]]
    for group in groups:
        places = np.arange(group.offset, group.offset + len(group.rows))
        mine = [
            [piece for piece in pieces if group.offset <= piece.positions[0] < group.offset + len(group.rows)]
            for pieces in found
        ]
        assert np.concatenate([p.rows for pieces in mine for p in pieces]).tolist() == group.rows.tolist()
        assert np.concatenate([p.positions for pieces in mine for p in pieces]).tolist() == places.tolist()
        assert {sum(len(p.rows) for p in pieces) for pieces in mine} == {len(group.rows) // ranks}


def test_a_share_is_cut_into_full_micro_batches_and_a_rest() -> None:
    cut = plan(ranks=2, micro_batch=3)
    assert [cut.share(0), cut.share(1)] == [8, 2]
    assert [cut.micro_batches(0), cut.micro_batches(1)] == [[3, 3, 2], [2]]
    cut.limit([8, 1])
    assert [cut.micro_batches(0), cut.micro_batches(1)] == [[8], [1, 1]]
    assert cut.samples == IMAGES + CLIPS


@pytest.mark.parametrize("most", [[4], [4, 0], [4, 4, 4]])
def test_micro_batches_without_a_meaning_are_refused(most: list[int]) -> None:
    with pytest.raises(ValueError, match="expected 2 numbers of at least 1"):
        plan().limit(most)


def test_the_hash_of_a_step_is_that_of_all_its_samples_and_places() -> None:
    cut = plan(1, 2, 3)  # whose turn it is in step 7
    shares = [share for rank in range(2) for share in plan(rank, 2, 3).micro_batch_rows(7)]
    ids, places = (np.concatenate([getattr(s, name) for s in shares]) for name in ("rows", "positions"))
    assert cut.order_hash(7, lambda bucket, rows: rows) == order_hash(7, ids, places)
    assert cut.order_hash(7, lambda bucket, rows: rows + 100 * bucket) != order_hash(7, ids, places)


def test_ranks_take_turns_to_hash_whole_steps_and_of_large_ones_some_are_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    turns = [[rank for rank in range(4) if plan(rank, 4).checks(step)] for step in range(6)]
    assert turns == [[0], [1], [2], [3], [0], [1]]
    assert plan(0, 4).order_hash(1, lambda bucket, rows: rows) is None
    assert steps.CHECKED == 8192
    monkeypatch.setattr(steps, "CHECKED", 12)  # of three groups of up to 16 samples
    turns = [[rank for rank in range(2) if plan(rank, 2).checks(step)] for step in range(8)]
    assert turns == [[0], [], [], [], [1], [], [], []]


def test_the_largest_micro_batches_take_most_tokens_and_most_pairs_of_tokens() -> None:
    def largest(*limits: int) -> list[tuple[int, list[int], list[int]]]:
        cut = plan()
        cut.limit(limits)
        first = [cut.order.first(0).tolist(), cut.order.first(1).tolist()]
        found = cut.largest()
        assert [s.rows.tolist() for s in found] == [first[s.bucket][: len(s.rows)] for s in found]
        return [(s.bucket, s.positions.tolist(), [len(s.rows)]) for s in found]

    assert largest(16, 4) == [(0, [*range(16)], [16]), (1, [*range(4)], [4])]  # 1024 tokens each: a tie
    assert largest(15, 4) == [(1, [*range(4)], [4])]
    assert largest(15, 2) == [(0, [*range(15)], [15]), (1, [0, 1], [2])]
    assert largest(16, 1) == [(0, [*range(16)], [16])]  # as many pairs of tokens in both


def test_nothing_is_tried_where_one_shape_is_used() -> None:
    cut = StepPlan(buckets()[:1], LoaderConfig(**CONFIG), rank=0, ranks=1, seed=5)
    assert cut.largest() == []
    assert plan(video_share=1.0).largest() == []


def test_an_empty_dataset_and_ranks_that_do_not_divide_are_refused() -> None:
    empty = [BucketSamples("1x8x8", rows_of(0, 5), 64, False)]
    with pytest.raises(UserError, match="holds no sample that fits a bucket"):
        StepPlan(empty, LoaderConfig(**CONFIG), rank=0, ranks=1, seed=5)
    with pytest.raises(GroupSizeError, match="a group of bucket 5x8x8"):
        plan(ranks=8)


def test_every_sample_is_seen_equally_often_but_for_a_mix_or_a_share_of_videos() -> None:
    two = buckets()
    assert group_shares(two, [16, 4], None) == pytest.approx([2.5 / 5.5, 3 / 5.5])
    assert group_shares(two, [16, 4], 0.25) == pytest.approx([0.75, 0.25])
    assert group_shares(two, [16, 4], 0.0) == [1.0, 0.0]
    assert group_shares(two, [16, 4], None, [3, 1]) == pytest.approx([0.75, 0.25])
    assert group_shares(two, [16, 4], None, [1, 0]) == [1.0, 0.0]
    split = [*two, BucketSamples("1x4x4", rows_of(80), 16, False, 0)]
    assert group_shares(split, [16, 4, 64], 0.5) == pytest.approx([1 / 3, 0.5, 1 / 6])


def test_a_dataset_without_samples_has_no_share_and_one_bucket_may_be_empty() -> None:
    images, empty = buckets()[0], BucketSamples("1x4x4", rows_of(0, 5), 64, False, 1)
    assert group_shares([images, empty], [160, 16], None, [1, 0]) == [1.0, 0.0]
    assert group_shares([BucketSamples("1x8x8", rows_of(8), 64, False)], [16], None, [3]) == [1.0]
    cut = StepPlan([images, empty], LoaderConfig(**CONFIG), rank=0, ranks=1, seed=5)
    assert cut.weights == [1.0, 0.0]


@pytest.mark.parametrize("mix", [[1], [1, 1, 1], [0, 0]])
def test_a_mix_of_what_is_not_there_is_refused(mix: list[float]) -> None:
    with pytest.raises(UserError, match=r"^mix=.*: expected shares of what is there .* 45\.5 %, 54\.5 %"):
        group_shares(buckets(), [16, 4], None, mix)


def test_a_share_of_videos_needs_videos_and_goes_with_no_mix() -> None:
    with pytest.raises(UserError, match=r"^video_share=0\.5: expected shares .* 100\.0 %, 0\.0 %"):
        group_shares(buckets()[:1], [16], 0.5)
    with pytest.raises(UserError, match=r"^video_share=0\.5: expected null"):
        group_shares(buckets(), [16, 4], 0.5, [1, 1])


def test_the_report_gives_samples_shares_groups_and_costs() -> None:
    cut = StepPlan(
        [*buckets(("a", "b")), BucketSamples("1x4x4", rows_of(8), 64, False, 1, "b")],
        LoaderConfig(**CONFIG),
        rank=0,
        ranks=2,
        seed=5,
        micro_batch=3,
        mix=(1, 1),
    )
    assert bucket_lines(cut) == [
        "a: 40 samples (66.7%), 50.0% of groups",
        "b: 20 samples (33.3%), 50.0% of groups",
        "1x8x8 of a: 40 samples (66.7%), 50.0% of groups, groups of 16 = 2 ranks x 8, at most 3 at once, "
        "cost 1024 (1.00 of the mean)",
        "5x8x8 of b: 12 samples (20.0%), 42.9% of groups, groups of 4 = 2 ranks x 2, at most 2 at once, "
        "cost 1024 (1.00 of the mean)",
        "1x4x4 of b: 8 samples (13.3%), 7.1% of groups, groups of 16 = 2 ranks x 8, at most 3 at once, "
        "cost 1024 (1.00 of the mean)",
        "padding 0 %, imbalance across ranks 0 %, no sample dropped",
    ]


def test_measured_times_are_of_a_rank_of_a_group_and_stand_beside_the_prediction() -> None:
    cut = plan(ranks=2, video_share=0.25, cost_quadratic=0.01)
    assert cut.group_sizes == [16, 4]
    costs = [16 * (64 + 0.01 * 64**2), 4 * (256 + 0.01 * 256**2)]
    mean = 0.75 * costs[0] + 0.25 * costs[1]
    assert time_lines(cut, [0.001, 0.008]) == [
        f"1x8x8: a group takes 8 ms, 0.80 of the mean (predicted {costs[0] / mean:.2f})",
        f"5x8x8: a group takes 16 ms, 1.60 of the mean (predicted {costs[1] / mean:.2f})",
        f"measured spread of group times 80% (predicted {(costs[1] - costs[0]) / mean:.0%}): "
        "longest less shortest, over the mean; forward and backward",
    ]
    assert time_lines(cut, [None, None]) == []
    assert time_lines(cut, [None, 0.008]) == ["5x8x8: a group takes 16 ms, 1.00 of the mean (predicted 1.00)"]


def test_a_spread_over_some_of_the_buckets_says_so() -> None:
    three = [*buckets(), BucketSamples("1x4x4", rows_of(80), 16, False)]
    cut = StepPlan(three, LoaderConfig(**CONFIG), rank=0, ranks=1, seed=5)
    *_, spread = time_lines(cut, [0.001, 0.001, None])
    assert ", over 2 of 3 buckets): longest" in spread
