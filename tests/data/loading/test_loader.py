"""The loader of latent caches: equal steps for any world, micro-batch and moment of resuming."""

from __future__ import annotations

import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from core.batch import Batch
from core.distributed.agreement import order_hash
from core.distributed.ranks import World
from core.errors import UserError, WorkError
from data.loading.ahead import read_ahead
from data.loading.loader import LatentLoader
from data.order.buckets import GroupSizeError
from data.order.plan_report import bucket_lines, time_lines
from data.order.steps import LoaderConfig
from tests.data.caches import CLIP, IMAGE, Cache, latents_of, make_cache

SHARDS = [[IMAGE, CLIP] * 5, [IMAGE] * 9, [CLIP] * 3 + [IMAGE], [IMAGE] * 8]
CONFIG = LoaderConfig(group_size=16, groups_per_step=2, shuffle_shards=2)


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Cache:
    return make_cache(tmp_path_factory.mktemp("cache"), SHARDS, (3, 12))


def world(rank: int = 0, size: int = 1) -> World:
    return World(rank, size, rank, torch.device("cpu"))


def by_position(batches: list[Batch]) -> dict[int, tuple]:
    """Return {position in the step: (id, label, weight, latents)}."""
    return {
        int(position): (int(batch.id[i]), int(batch.condition.label[i]), float(batch.weight[i]), batch.x[i])
        for batch in batches
        for i, position in enumerate(batch.position)
    }


def whole_step(cache, step: int, ranks: int, micro_batch: int) -> dict[int, tuple]:
    merged: dict[int, tuple] = {}
    for rank in range(ranks):
        here = by_position(LatentLoader([cache], CONFIG, world(rank, ranks), 5, micro_batch).load(step))
        assert not merged.keys() & here.keys()
        merged |= here
    return merged


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 500), st.sampled_from([1, 2, 4, 8]), st.integers(0, 9))
def test_a_step_is_the_same_for_any_world_and_micro_batch(cache, step, ranks, micro_batch):
    one, many = whole_step(cache, step, 1, 0), whole_step(cache, step, ranks, micro_batch)
    assert one.keys() == many.keys() == set(range(len(one)))
    for position, (sample, label, weight, latents) in one.items():
        assert many[position][:3] == (sample, label, weight)
        assert torch.equal(many[position][3], latents)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 300), st.sampled_from([2, 4, 8]), st.integers(0, 5))
def test_all_ranks_hold_one_shape_in_a_micro_step(cache, step, ranks, micro_batch):
    shapes = [
        [
            batch.x.shape
            for batch in LatentLoader([cache], CONFIG, world(rank, ranks), 0, micro_batch).load(step)
        ]
        for rank in range(ranks)
    ]
    assert all(other == shapes[0] for other in shapes)
    assert all(shape[0] <= (micro_batch or 16) for shape in shapes[0])


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 300), st.sampled_from([1, 2, 4]), st.integers(0, 5))
def test_one_rank_in_turn_knows_the_hash_of_what_all_hold_together(cache, step, ranks, micro_batch):
    loaders = [LatentLoader([cache], CONFIG, world(rank, ranks), 5, micro_batch) for rank in range(ranks)]
    batches = [batch for loader in loaders for batch in loader.load(step)]
    (whole,) = {batch.order_hash for batch in loaders[step % ranks].load(step)}
    assert {batch.order_hash for batch in batches} == {whole, None} - ({None} if ranks == 1 else set())
    held = sum(order_hash(step, batch.id.numpy(), batch.position.numpy()) for batch in batches)
    assert held % (1 << 40) == whole == LatentLoader([cache], CONFIG, world(), 5).load(step)[0].order_hash
    alone, other_seed = (LatentLoader([cache], CONFIG, world(), seed, micro_batch) for seed in (5, 6))
    nearby = range(step, step + 2)  # one step may be of clips alone, all of which are in every group of them
    hashes = [[source.load(k)[0].order_hash for k in nearby] for source in (alone, other_seed)]
    assert hashes[0] != hashes[1]


@pytest.mark.parametrize(("ranks", "micro_batch"), [(1, 0), (2, 0), (2, 3)])
def test_the_largest_micro_batches_are_as_large_as_any_that_come(cache, ranks, micro_batch):
    loader = LatentLoader([cache], CONFIG, world(1 % ranks, ranks), 5, micro_batch)
    tried = loader.largest()
    come = [batch for step in range(8) for batch in loader.load(step)]
    assert len({batch.bucket for batch in come}) == 2
    for power in (1, 2):  # activations grow with the tokens of a sample, kept scores with their square
        memory = [[len(b) * b.x[0, 0, 0].numel() ** power for b in part] for part in (tried, come)]
        assert max(memory[0]) == max(memory[1])


def test_nothing_is_tried_where_all_micro_batches_are_alike(tmp_path):
    assert LatentLoader([make_cache(tmp_path, [[IMAGE] * 20])], CONFIG, world(), 5).largest() == []


def test_samples_are_what_was_stored_and_absent_ones_weigh_nothing(cache):
    seen = {}
    for step in range(12):
        for sample, label, weight, latents in by_position(
            LatentLoader([cache], CONFIG, world(), 1).load(step)
        ).values():
            seen[sample] = weight
            shape = [s for shard in SHARDS for s in shard][sample]
            assert label == sample % 10
            expected = np.zeros(shape) if sample in (3, 12) else latents_of(sample, shape)
            assert (latents.numpy() == expected).all()
    assert {sample for sample, weight in seen.items() if weight == 0} == {3, 12}
    assert len(seen) == sum(map(len, SHARDS))


def test_iterating_is_loading_step_after_step_and_stops_cleanly(cache):
    loader = LatentLoader([cache], CONFIG, world(), 5)
    batches = read_ahead(loader.load, 7, CONFIG.prefetch)
    for step in (7, 8, 9):
        for a, b in zip(next(batches), loader.load(step), strict=True):
            assert torch.equal(a.x, b.x)
            assert torch.equal(a.id, b.id)
    batches.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("read-ahead")]


def test_several_threads_may_load_at_once(cache):
    steps = list(range(40)) * 2
    alone = LatentLoader([cache], CONFIG, world(), 5)
    wanted = [[batch.id.tolist() for batch in alone.load(step)] for step in steps]
    shared, interval = LatentLoader([cache], CONFIG, world(), 5), sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as threads:
            found = list(threads.map(lambda step: [b.id.tolist() for b in shared.load(step)], steps))
    finally:
        sys.setswitchinterval(interval)
    assert found == wanted


def test_recorded_counts_give_the_same_order(cache, tmp_path):
    counted = make_cache(tmp_path, SHARDS, (3, 12), counts=True)
    for step in range(3):
        a, b = (LatentLoader([c], CONFIG, world(), 5).load(step) for c in (cache, counted))
        assert [batch.id.tolist() for batch in a] == [batch.id.tolist() for batch in b]


def test_ranks_that_do_not_divide_a_group_are_refused(cache):
    with pytest.raises(GroupSizeError, match=r"16 = 5 x 3 \+ 1"):
        LatentLoader([cache], CONFIG, world(0, 3), 0)


def test_groups_follow_video_share(cache):
    config = replace(CONFIG, video_share=0.75)
    loader = LatentLoader([cache], config, world(), 0)
    frames = [batch.x.shape[3] for step in range(8) for batch in loader.load(step)]
    assert frames.count(3) == 12
    assert frames.count(1) == 4
    with pytest.raises(UserError, match=r"^video_share=0.75: expected .*100.0 %"):
        LatentLoader([make_only_images(cache)], config, world(), 0)


def make_only_images(cache: Cache) -> Cache:
    images = cache.index[cache.index["bucket"] == 0]
    first = replace(cache.manifest.shards[0], samples=len(images))
    manifest = replace(cache.manifest, shards=(first,), buckets=(IMAGE,))
    return Cache(cache.folder, manifest, images)


def test_by_default_samples_are_seen_equally_often(cache):
    loader = LatentLoader([cache], CONFIG, world(), 0)
    for bucket, size, weight in zip(
        loader.plan.buckets, loader.plan.group_sizes, loader.plan.weights, strict=True
    ):
        expected = (
            len(bucket.rows)
            / size
            / sum(len(s.rows) / n for s, n in zip(loader.plan.buckets, loader.plan.group_sizes, strict=True))
        )
        assert weight == pytest.approx(expected)


def test_the_report_has_a_line_for_each_bucket(cache):
    lines = bucket_lines(LatentLoader([cache], CONFIG, world(0, 4), 0, 3).plan)
    assert lines[0].startswith("latents 3x1x4x4: 23 samples (74.2%), ")
    assert "groups of 16 = 4 ranks x 4, at most 3 at once, cost " in lines[0]
    assert len(lines) == 3
    assert "padding 0 %" in lines[-1]


def test_times_of_groups_are_told_beside_what_was_predicted(cache):
    plan = LatentLoader([cache], CONFIG, world(0, 4), 0, 3).plan
    sizes, weights = plan.group_sizes, plan.weights
    lines = time_lines(plan, [0.001, 0.003])
    times = [0.001 * sizes[0] / 4, 0.003 * sizes[1] / 4]
    mean = sum(t * w for t, w in zip(times, weights, strict=True))
    for line, name, took in zip(lines, ("3x1x4x4", "3x3x4x4"), times, strict=False):
        assert line.startswith(
            f"latents {name}: a group takes {1000 * took:.3g} ms, {took / mean:.2f} of the"
        )
    assert lines[2].startswith(f"measured spread of group times {(max(times) - min(times)) / mean:.0%} (pred")
    assert len(time_lines(plan, [0.001, None])) == 1
    assert time_lines(plan, [None, None]) == []


def test_a_raw_dataset_is_refused(cache):
    raw = Cache(cache.folder, replace(cache.manifest, kind="raw"), cache.index)
    with pytest.raises(UserError, match="expected a latent cache"):
        LatentLoader([raw], CONFIG, world(), 0)


def test_damaged_latents_name_their_part(tmp_path):
    cache = make_cache(tmp_path, [[IMAGE] * 4])
    path = tmp_path / "000000.tar"
    data = bytearray(path.read_bytes())
    data[int(cache.index["offset"][2]) + 1] |= 0x7C
    path.write_bytes(data)
    batches = read_ahead(LatentLoader([cache], CONFIG, world(), 0).load, 0, CONFIG.prefetch)
    with pytest.raises(WorkError, match=r"000000\.tar: damaged, sample 2 is not finite"):
        next(batches)


@pytest.mark.parametrize(
    ("column", "value", "told"),
    [
        ("shard", 7, "the index names part 7 of 2"),
        ("offset", 2**40, "the index points behind its end"),
        ("label", 3, "its index has the label 3, and there are 2 classes"),
    ],
)
def test_an_index_that_points_nowhere_is_refused(tmp_path, column, value, told):
    cache = make_cache(tmp_path, [[IMAGE] * 4, [IMAGE] * 4])
    cache.index[column] = value
    cache = Cache(cache.folder, replace(cache.manifest, classes=("cat", "dog")), cache.index)
    with pytest.raises(WorkError, match=told):
        LatentLoader([cache], CONFIG, world(), 0).load(0)


def test_counts_that_the_index_does_not_bear_out_end_the_search(tmp_path):
    """The stream of a bucket would look for the missing rows without end."""
    cache = make_cache(tmp_path, [[IMAGE] * 8], counts=True)
    extra = {**cache.manifest.extra, "bucket_counts": [[9]]}
    cache = Cache(cache.folder, replace(cache.manifest, extra=extra), cache.index)
    with pytest.raises(WorkError, match=r"8 samples of bucket 0, not 9 as was counted"):
        LatentLoader([cache], CONFIG, world(), 0).load(0)
