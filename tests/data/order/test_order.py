"""Order is arithmetic: exactly once an epoch, at any step, whatever came before."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import WorkError
from data.order.bucket_rows import BucketRows, count_buckets
from data.order.buckets import NO_BUCKET
from data.order.order import Order, periodic_table
from data.order.stream import Stream


def bucket_rows(column: np.ndarray, starts: np.ndarray, buckets: int) -> list[BucketRows]:
    counts = count_buckets(column, starts, buckets)
    return [BucketRows(column, starts, b, counts[:, b]) for b in range(buckets)]


@st.composite
def datasets(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, int]:
    """Return the bucket of each row, the first row of each shard (some empty), and the number of buckets."""
    sizes = draw(st.lists(st.integers(0, 9), min_size=1, max_size=12))
    buckets = draw(st.integers(1, 3))
    rows = sum(sizes)
    column = draw(st.lists(st.sampled_from([*range(buckets), NO_BUCKET]), min_size=rows, max_size=rows))
    return np.array(column, np.uint16), np.concatenate([[0], np.cumsum(sizes)]), buckets


def plain_stream(bucket: BucketRows, places: int, block: int) -> np.ndarray:
    """Return a bucket's stream, epoch after epoch, by plain concatenation: the plain twin."""
    from core.permutations import permutation

    stream: list[int] = []
    epoch = 0
    while len(stream) < places:
        shards = permutation(5, "shards", (0, epoch), len(bucket.counts))
        for number, first in enumerate(range(0, len(shards), block)):
            rows = np.concatenate([bucket.rows(int(s)) for s in shards[first : first + block]])
            stream += rows[permutation(5, "samples", (0, epoch, number), len(rows))].tolist()
        epoch += 1
    return np.array(stream[:places])


@settings(max_examples=60, deadline=None)
@given(datasets(), st.integers(1, 4), st.integers(0, 40), st.integers(1, 30))
def test_a_stream_is_the_concatenation_of_its_epochs(data, block, start, count):
    column, starts, _ = data
    rows = bucket_rows(column, starts, 1)[0]
    if len(rows) == 0:
        return
    taken, epochs = Stream(rows, number=0, seed=5, block=block).take(start, count)
    assert taken.tolist() == plain_stream(rows, start + count, block)[start:].tolist()
    assert epochs.tolist() == [place // len(rows) for place in range(start, start + count)]


@settings(max_examples=60, deadline=None)
@given(datasets(), st.integers(1, 5), st.integers(1, 3), st.integers(1, 3), st.integers(0, 2**40))
def test_each_epoch_of_a_bucket_holds_each_row_exactly_once(data, size, per_step, block, seed):
    column, starts, buckets = data
    weights = [int((column == b).any()) for b in range(buckets)]
    if not any(weights):
        return
    sizes = [size + b for b in range(buckets)]
    rows = bucket_rows(column, starts, buckets)
    order = Order(rows, sizes, weights, seed=seed, groups_per_step=per_step, block=block)
    seen: dict[tuple[int, int], list[int]] = {}
    for k in range(2 * len(column) * buckets // per_step + 2):
        for group in order.step(k):
            assert len(group.rows) == sizes[group.bucket]
            for row, epoch in zip(group.rows.tolist(), group.epochs.tolist(), strict=True):
                seen.setdefault((group.bucket, epoch), []).append(row)
    for bucket in np.flatnonzero(weights):
        everything = np.flatnonzero(column == bucket).tolist()
        assert sorted(seen[int(bucket), 0]) == everything
        last = max(epoch for b, epoch in seen if b == bucket)
        for epoch in range(last):  # the last one is cut where the test stopped
            assert sorted(seen[int(bucket), epoch]) == everything


@settings(max_examples=40, deadline=None)
@given(datasets(), st.lists(st.integers(0, 10**9), min_size=1, max_size=5))
def test_a_step_depends_on_nothing_that_came_before(data, steps):
    column, starts, buckets = data
    if not (column < buckets).any():
        return

    def order() -> Order:
        return Order(
            bucket_rows(column, starts, buckets),
            [4] * buckets,
            [1.0 + b for b in range(buckets)],
            seed=3,
            groups_per_step=2,
            block=2,
        )

    used = order()
    for k in steps:
        for old, new in zip(used.step(k), order().step(k), strict=True):
            assert (old.bucket, old.offset) == (new.bucket, new.offset)
            assert old.rows.tolist() == new.rows.tolist()
            assert old.epochs.tolist() == new.epochs.tolist()


def test_epochs_and_seeds_differ_and_blocks_bound_the_shuffle():
    starts = np.arange(0, 1001, 100)
    rows = bucket_rows(np.zeros(1000, np.uint16), starts, 1)[0]
    stream = Stream(rows, number=0, seed=1, block=2)
    first, second = stream.take(0, 1000)[0], stream.take(1000, 1000)[0]
    assert not (first == second).all()
    assert not (first == Stream(rows, number=0, seed=2, block=2).take(0, 1000)[0]).all()
    shards = (first // 100).reshape(5, 200)
    assert all(len(np.unique(block)) == 2 for block in shards)
    assert sorted(np.concatenate([np.unique(block) for block in shards]).tolist()) == list(range(10))
    assert (np.diff(shards) != 0).sum() > 300  # the two shards of a block alternate


def test_rows_of_a_group_ascend_and_offsets_add_up():
    rows = bucket_rows(np.arange(100) % 2, np.array([0, 50, 100]), 2)
    groups = Order(rows, [8, 24], [1, 1], seed=0, groups_per_step=4).step(3)
    assert all((np.diff(group.rows) >= 0).all() for group in groups)
    assert [group.offset for group in groups] == [0, 8, 32, 40]
    assert [group.bucket for group in groups] == [0, 1, 0, 1]


def test_a_bucket_smaller_than_its_group_repeats_by_epochs():
    rows = bucket_rows(np.zeros(3, np.uint16), np.array([0, 3]), 1)
    group = Order(rows, [8], [1], seed=0).step(0)[0]
    assert np.bincount(group.rows).tolist() in ([3, 3, 2], [3, 2, 3], [2, 3, 3])
    assert np.bincount(group.epochs).tolist() == [3, 3, 2]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=20).filter(lambda w: max(w) > 0))
def test_the_table_keeps_the_shares_and_spreads_them(weights):
    table = periodic_table(weights)
    counts = np.bincount(table, minlength=len(weights))
    shares = np.array(weights) / sum(weights)
    assert ((counts > 0) == (shares > 0)).all()
    expected = shares * len(table)
    assert (counts <= np.maximum(expected + 1.01, 1)).all()
    assert (np.abs(counts - expected) <= 1.01 + (counts == 1).sum()).all()
    for bucket in np.flatnonzero(counts):
        gaps = np.diff(np.flatnonzero(np.tile(table, 2) == bucket))
        assert gaps.max() <= 2 * len(table) / counts[bucket] + len(weights)


@pytest.mark.parametrize(
    ("weights", "table"), [([2, 1], [0, 1, 0]), ([5], [0]), ([0, 3, 3], [1, 2]), ([0.75, 0.25], [0, 0, 1, 0])]
)
def test_small_ratios_give_short_tables(weights, table):
    assert periodic_table(weights).tolist() == table


@pytest.mark.parametrize("weights", [[0.0], [1.0, -1.0], [float("nan")], [float("inf"), 1.0]])
def test_weights_without_a_meaning_are_refused(weights):
    with pytest.raises(ValueError, match="weights"):
        periodic_table(weights)


def test_shares_that_no_short_table_gives_are_exact_to_one_group():
    thirds = [np.pi, np.e, 0.0, 1e-5]
    table = periodic_table(thirds)
    assert len(table) == 1024
    expected = np.array(thirds) / sum(thirds) * 1024
    counts = np.bincount(table, minlength=4)
    assert counts[2:].tolist() == [0, 1]  # any weight gets one at least
    assert np.abs(counts - expected)[:2].max() < 1
    assert len(periodic_table([1 + np.sqrt(n) for n in range(100)])) == 16 * 100
    assert len(periodic_table([*(1 + np.sqrt(n) for n in range(65)), *[0.0] * 100])) == 16 * 65


@pytest.mark.parametrize(("weights", "period"), [([1, 1022], 1023), ([1, 1023], 1024), ([1, 1024], 1024)])
def test_a_period_has_as_many_groups_as_its_shares_need_up_to_the_most(weights, period):
    assert len(periodic_table(weights)) == period


def test_the_four_blocks_used_last_are_kept(monkeypatch):
    starts = np.arange(0, 13, 2)
    rows = bucket_rows(np.zeros(12, np.uint16), starts, 1)[0]
    stream = Stream(rows, number=0, seed=5, block=1)
    read = []
    monkeypatch.setattr(rows, "rows", lambda shard: read.append(shard) or BucketRows.rows(rows, shard))
    blocks_read = []
    for block in (0, 1, 2, 3, 0, 4, 0, 1):
        stream.take(2 * block, 2)
        blocks_read.append(len(read))
    assert blocks_read == [1, 2, 3, 4, 4, 5, 5, 6]


def test_the_groups_of_a_period_lie_in_the_middle_of_their_parts():
    assert periodic_table([4, 1, 2]).tolist() == [0, 2, 0, 1, 0, 2, 0]
    assert periodic_table([1, 1, 1]).tolist() == [0, 1, 2]


def test_a_run_stays_in_its_order():
    """Changing these changes every run that is continued."""
    column = np.array([0, 1, 0, 0, 1, 0, 1, 0, 0, 0, 1, 0, NO_BUCKET], np.uint16)
    order = Order(
        bucket_rows(column, np.array([0, 4, 4, 9, 13]), 2), [4, 2], [2, 1], seed=5, groups_per_step=2, block=2
    )
    found = [(g.bucket, g.offset, g.rows.tolist(), g.epochs.tolist()) for k in (0, 7) for g in order.step(k)]
    assert found == [
        (0, 0, [7, 8, 9, 11], [0, 0, 0, 0]),
        (1, 4, [1, 10], [0, 0]),
        (0, 0, [3, 5, 7, 8], [4, 4, 4, 4]),
        (0, 4, [0, 2, 5, 8], [5, 5, 5, 5]),
    ]
    assert order.first(1).tolist() == [1, 10]


def test_counts_are_of_every_shard_and_bucket():
    column = np.array([0, 1, 1, NO_BUCKET, 1], np.uint16)
    assert count_buckets(column, np.array([0, 2, 2, 5]), 3).tolist() == [[1, 1, 0], [0, 0, 0], [0, 2, 0]]


def test_counts_that_the_index_does_not_bear_out_are_named_by_rows():
    rows = BucketRows(np.array([0, 0, 1], np.uint16), np.array([0, 3]), 0, np.array([3]))
    with pytest.raises(
        WorkError, match="rows 0 to 2 of the index: 2 samples of bucket 0, not 3 as was counted"
    ):
        rows.rows(0)


def test_an_empty_bucket_gets_no_group():
    rows = bucket_rows(np.zeros(10, np.uint16), np.array([0, 10]), 2)
    order = Order(rows, [2, 2], [1, 1], seed=0)
    assert {group.bucket for k in range(4) for group in order.step(k)} == {0}


def test_two_datasets_mix_by_weight_and_each_keeps_its_epochs():
    a = bucket_rows(np.zeros(6, np.uint16), np.array([0, 6]), 1)[0]
    b = bucket_rows(np.zeros(4, np.uint16), np.array([0, 2, 4]), 1)[0]
    order = Order([a, b], [2, 2], [3, 1], seed=0)
    groups = [order.step(k)[0] for k in range(8)]
    assert [group.bucket for group in groups].count(0) == 6
    assert sorted(np.concatenate([g.rows for g in groups if g.bucket == 0]).tolist()) == sorted(
        [*range(6)] * 2
    )
    assert sorted(np.concatenate([g.rows for g in groups if g.bucket == 1]).tolist()) == [0, 1, 2, 3]


def test_ten_million_samples_are_not_scanned():
    """Only the shards of the block in question are looked at: structure, and a generous bound on time."""

    class Column:
        looked_at = 0

        def __getitem__(self, rows: slice) -> np.ndarray:
            Column.looked_at += rows.stop - rows.start
            return np.zeros(rows.stop - rows.start, np.uint16)

    starts = np.arange(0, 10_000_001, 10_000)
    rows = BucketRows(Column(), starts, 0, np.full(1000, 10_000))  # type: ignore[arg-type]
    began = time.perf_counter()
    group = Order([rows], [256], [1.0], seed=0, block=8).step(123_456)[0]
    assert len(group.rows) == 256
    assert Column.looked_at <= 2 * 8 * 10_000
    assert time.perf_counter() - began < 5
