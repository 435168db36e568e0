"""Large shards are shuffled in pieces where a group has many. Run: pytest tests/data/order/test_pieces.py"""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import WorkError
from data.order import cuts, stream
from data.order.bucket_rows import BucketRows, count_buckets
from data.order.order import Order

SHARDS, OF_SHARD = 40, 100


def bucket_of(sizes: list[int], column: np.ndarray | None = None, bucket: int = 0) -> BucketRows:
    starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    column = np.zeros(sum(sizes), np.uint16) if column is None else column
    return BucketRows(column, starts, bucket, count_buckets(column, starts, 2)[:, bucket])


def order_of(*, piece: int, group: int = 800, seed: int = 3, block: int = 8) -> Order:
    """Return the order of 40 shards of 100 samples."""
    return Order([bucket_of([OF_SHARD] * SHARDS)], [group], [1.0], seed=seed, block=block, piece=piece)


@settings(max_examples=150, deadline=None)
@given(
    buckets=st.lists(st.lists(st.integers(0, 1), max_size=40), min_size=1, max_size=6).filter(
        lambda shards: any(0 in shard for shard in shards)
    ),
    most=st.integers(1, 12),
)
def test_pieces_are_shards_cut_evenly(buckets: list[list[int]], most: int) -> None:
    """Whatever other samples lie between those of the bucket."""
    rows = bucket_of([len(shard) for shard in buckets], np.concatenate(buckets).astype(np.uint16))
    cut, at = rows.in_pieces(most), 0
    for shard, count in enumerate(rows.counts):
        found = []
        while sum(map(len, found)) < count:
            found.append(cut.rows(at))
            assert len(found[-1]) == cut.counts[at]
            at += 1
        sizes = [len(piece) for piece in found]
        assert np.concatenate(found).tolist() == rows.rows(shard).tolist()
        assert len(found) == -(-count // most)
        assert max(sizes) <= most
        assert max(sizes) - min(sizes) <= 1
    assert (cut is rows) == (max(rows.counts) <= most)
    assert at == len(cut.counts)
    assert len(cut) == len(rows)


@settings(max_examples=80, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 9), min_size=1, max_size=14).filter(any),
    piece=st.integers(1, 4),
    part=st.integers(1, 6),
    parts=st.integers(1, 8),
    block=st.integers(1, 5),
    step=st.integers(0, 30),
)
def test_parts_of_ranks_are_the_whole_cut(
    sizes: list[int], piece: int, part: int, parts: int, block: int, step: int
) -> None:
    """So the order is the same for any number of ranks; groups of several epochs, cut anywhere."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stream, "_SMALL", 0)
        patch.setattr(stream, "_MANY", 1 << 30)
        order = Order([bucket_of(sizes)], [part * parts], [1.0], seed=3, block=block, piece=piece)
        (whole,) = order.step(step)
        found = [order.part(step, number, parts)[0] for number in range(parts)]
        assert np.concatenate([group.rows for group in found]).tolist() == whole.rows.tolist()
        assert np.concatenate([group.epochs for group in found]).tolist() == whole.epochs.tolist()


def test_each_epoch_has_every_sample_once() -> None:
    order = order_of(piece=10)
    for epoch in range(2):
        rows = np.concatenate([order.step(epoch * 5 + step)[0].rows for step in range(5)])
        assert sorted(rows.tolist()) == list(range(SHARDS * OF_SHARD))


def test_the_order_is_this_one() -> None:
    """Of runs that have begun, with pieces and without."""

    def digest(piece: int) -> str:
        rows = np.concatenate([order_of(piece=piece).step(step)[0].rows for step in (0, 7, 61)])
        return hashlib.sha256(rows.astype("<i8").tobytes()).hexdigest()[:16]

    assert digest(0) == "b687b5f4ba290c98"
    assert digest(10) == "98e8ea3e1cfc7ad1"


@pytest.mark.parametrize(("group", "piece"), [(799, 10), (800, 100), (800, 0)])
def test_shards_stay_whole_where_a_group_is_smaller_than_a_block_or_shards_are_small(
    group: int, piece: int
) -> None:
    cut, plain = order_of(piece=piece, group=group), order_of(piece=0, group=group)
    for step in (0, 3, 40):
        assert cut.step(step)[0].rows.tolist() == plain.step(step)[0].rows.tolist()


def test_steps_have_samples_of_many_more_shards_and_neighbours_meet_by_chance() -> None:
    """A group of 800 has 80 pieces, of 35.7 of the 40 shards on average; whole shards were 8 to 10."""
    order = order_of(piece=10, seed=11)
    rows = [order.step(step)[0].rows for step in range(100)]
    shards = [np.count_nonzero(np.bincount(found // OF_SHARD)) for found in rows]
    assert np.mean(shards) == pytest.approx(40 * (1 - 0.8**10), abs=1)
    step_of = np.empty((20, SHARDS * OF_SHARD), np.int64)
    for step, found in enumerate(rows):
        step_of[step // 5, found] = step % 5
    last_of_piece = np.arange(9, SHARDS * OF_SHARD - 1, 10)
    meets = step_of[:, last_of_piece] == step_of[:, last_of_piece + 1]
    assert meets.mean() == pytest.approx(0.2, abs=0.015)  # one of five steps of an epoch; 3 deviations
    means = step_of.reshape(20, SHARDS, OF_SHARD).mean((0, 2))  # of 200 pieces of each shard
    assert means.std() == pytest.approx(np.sqrt(2 / 200), rel=0.4)


def test_a_rank_of_4096_draws_the_keys_of_a_small_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """A million samples of shards of 100,000: 8 pieces of at most 4,096 each step; counts, not times."""
    drawn, looked_at = [], []
    keys = cuts.sort_keys
    monkeypatch.setattr(cuts, "sort_keys", lambda *given: drawn.append(given[-1]) or keys(*given))

    class Column:
        def __getitem__(self, rows: slice) -> np.ndarray:
            looked_at.append(rows.stop - rows.start)
            return np.zeros(rows.stop - rows.start, np.uint16)

    starts = np.arange(0, 10_000_001, 100_000)
    rows = BucketRows(Column(), starts, 0, np.full(100, 100_000))  # type: ignore[arg-type]
    order = Order([rows], [4096 * 256], [1.0], seed=0, piece=4096)
    order.part(0, 2048, 4096)
    drawn.clear(), looked_at.clear()
    (found,) = order.part(1, 2048, 4096)
    assert len(found.rows) == 256
    assert sum(drawn) <= 8 * 4096
    assert sum(looked_at) <= 2 * 4096
    assert found.rows.tolist() == order.step(1)[0].rows[2048 * 256 : 2049 * 256].tolist()


def test_a_piece_that_the_index_does_not_bear_out_is_named_by_the_rows_of_its_shard() -> None:
    column = np.zeros(9, np.uint16)
    rows = bucket_of([9], column).in_pieces(3)
    column[4] = 1
    assert rows.rows(0).tolist() == [0, 1, 2]
    with pytest.raises(WorkError, match="rows 0 to 8 of the index: 8 samples of bucket 0, not 9"):
        rows.rows(1)
