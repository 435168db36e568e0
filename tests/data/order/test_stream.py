"""A rank's part of a group is cut without the group. Run: pytest tests/data/order/test_stream.py"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.order import cuts, stream
from data.order.bucket_rows import BucketRows
from data.order.cuts import among_smallest
from data.order.order import Order


@pytest.fixture(autouse=True)
def cutting_small_groups_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "_SMALL", 0)
    monkeypatch.setattr(stream, "_MANY", 1 << 30)


def order_of(sizes: list[int], group: int, *, per_step: int = 1, block: int = 2, seed: int = 3) -> Order:
    """Return the order of groups of one bucket, which has all rows of shards of these sizes."""
    starts = np.concatenate([[0], np.cumsum(sizes)])
    rows = BucketRows(np.zeros(sum(sizes), np.uint16), starts, 0, np.array(sizes))
    return Order([rows], [group], [1.0], seed=seed, groups_per_step=per_step, block=block)


@settings(max_examples=150, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 9), min_size=1, max_size=14).filter(any),
    part=st.integers(1, 6),
    parts=st.integers(1, 8),
    per_step=st.integers(1, 2),
    block=st.integers(1, 5),
    steps=st.lists(st.integers(0, 30), min_size=1, max_size=4),
)
def test_parts_are_the_whole_group_cut(
    sizes: list[int], part: int, parts: int, per_step: int, block: int, steps: list[int]
) -> None:
    """Groups smaller than a block, of several epochs, cut anywhere; the order of steps asked for is free."""
    order = order_of(sizes, part * parts, per_step=per_step, block=block)
    for step in steps:
        found = [order.part(step, number, parts) for number in range(parts)]
        for place, whole in enumerate(order.step(step)):
            cut = [groups[place] for groups in found]
            assert np.concatenate([group.rows for group in cut]).tolist() == whole.rows.tolist()
            assert np.concatenate([group.epochs for group in cut]).tolist() == whole.epochs.tolist()
            assert [group.offset for group in cut] == [whole.offset + n * part for n in range(parts)]


def test_a_rank_of_4096_looks_at_its_own_shards_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a group of a million samples, in ten million of a thousand shards: counts, not times."""
    looked_at, keyed = [], []
    monkeypatch.setattr(
        BucketRows, "rows", lambda self, shard: looked_at.append(shard) or np.arange(10_000) + 10_000 * shard
    )
    keys = cuts.sort_keys
    monkeypatch.setattr(cuts, "sort_keys", lambda *given: keyed.append(given[-1]) or keys(*given))
    monkeypatch.setattr(stream, "_SMALL", 4096)
    rows = BucketRows(np.empty(0), np.arange(0, 10_000_001, 10_000), 0, np.full(1000, 10_000))
    order = Order([rows], [4096 * 256], [1.0], seed=0, block=8)
    (first,) = order.part(0, 2048, 4096)
    looked_at.clear(), keyed.clear()
    (found,) = order.part(1, 2048, 4096)
    assert len(found.rows) == 256
    assert first.rows.tolist() != found.rows.tolist()
    assert len(looked_at) <= 2
    assert keyed == [80_000]  # the block in which the group ends; where it begins was cut before
    whole = order.step(1)[0].rows
    assert found.rows.tolist() == whole[2048 * 256 : 2049 * 256].tolist()


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=60), st.data())
def test_the_smallest_are_found_among_any_keys(keys: list[int], data: st.DataObject) -> None:
    """Far from uniform too, and with equal ones, of which the first come first."""
    n = data.draw(st.integers(1, len(keys)))
    expected = np.zeros(len(keys), bool)
    expected[np.argsort(np.array(keys, np.uint64), kind="stable")[:n]] = True
    assert among_smallest(np.array(keys, np.uint64), n).tolist() == expected.tolist()


def test_the_smallest_of_many_are_those_that_a_permutation_puts_first() -> None:
    keys = np.random.default_rng(0).integers(0, 2**64 - 1, 20_000, np.uint64)
    order = np.argsort(keys)
    for n in (1, 2, *range(9_000, 11_000, 50), 19_998, 20_000):
        assert np.flatnonzero(among_smallest(keys, n)).tolist() == np.sort(order[:n]).tolist()


@pytest.mark.parametrize("bits", [1, 2, 20])
def test_parts_do_not_depend_on_how_shards_are_counted(bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "_BINS", bits)
    monkeypatch.setattr(stream, "_FEW_SHARDS", 0)
    order = order_of([3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5], 60)  # 44 samples: shards of two epochs in a group
    for step in range(4):
        parts = [order.part(step, number, 12)[0].rows for number in range(12)]
        assert np.concatenate(parts).tolist() == order.step(step)[0].rows.tolist()


def test_an_empty_part_has_neither_rows_nor_epochs() -> None:
    rows, epochs = order_of([5], 5)._streams[0].part(0, 5, 2, 2)
    assert len(rows) == len(epochs) == 0


def test_few_cuts_are_kept() -> None:
    one = order_of([40] * 3, 7)._streams[0]
    for start in range(0, 700, 7):
        one.part(start, 7, 0, 7)
    assert len(one._cuts._kept) == len(one._shuffled) + 4 == 4


def test_of_equal_keys_the_first_come_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        cuts, "sort_keys", lambda seed, purpose, numbers, n: np.arange(n, dtype=np.uint64) // 3
    )
    cut = cuts.Cuts(number=0, seed=3).at(0, 0, np.array([4, 8]), 5)
    assert cut.is_before.tolist() == [True] * 5 + [False] * 7
    assert cut.counts.tolist() == [4, 1]


def test_keys_of_a_block_are_drawn_once_for_the_groups_that_cut_it(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    keys = cuts.sort_keys
    monkeypatch.setattr(cuts, "sort_keys", lambda *given: drawn.append(given[-1]) or keys(*given))
    order = order_of([50] * 4, 10)  # ten groups of a block of two shards
    for step in range(20):
        order.part(step, 0, 2)
    assert drawn == [100, 100]
