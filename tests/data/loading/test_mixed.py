"""Several caches trained on as one: the same arithmetic, told apart, and only where they belong together."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from core.distributed.ranks import World
from core.errors import UserError
from data.latent.normalising import LatentSums
from data.loading.loader import IDS, LatentLoader
from data.loading.sources.cached import CachedLatents
from data.loading.sources.kinds import LatentSource
from data.loading.sources.mixed import MixedLatents
from data.order.plan_report import bucket_lines
from data.order.steps import LoaderConfig
from tests.data.caches import CLIP, IMAGE, Cache, latents_of, make_cache

WORLD = World(0, 1, 0, torch.device("cpu"))
CONFIG = LoaderConfig(group_size=8, groups_per_step=2, shuffle_shards=2)
SHARDS = {"a": [[IMAGE, CLIP] * 8, [IMAGE] * 12], "b": [[IMAGE] * 9, [IMAGE, CLIP] * 3], "c": [[CLIP] * 7]}


@pytest.fixture(scope="module")
def caches(tmp_path_factory: pytest.TempPathFactory) -> list[Cache]:
    folder = tmp_path_factory.mktemp("caches")
    return [make_cache(folder / name, shards) for name, shards in SHARDS.items()]


def loader(source: LatentSource, rank: int = 0, ranks: int = 1, micro_batch: int = 0) -> LatentLoader:
    return source.loader(CONFIG, World(rank, ranks, rank, torch.device("cpu")), 5, micro_batch)


def groups_by_cache(mixture, steps: int) -> Counter:
    plan = loader(mixture).plan
    return Counter(
        plan.buckets[s.bucket].source for step in range(steps) for s in plan.micro_batch_rows(step)
    )


def test_groups_come_in_the_shares_of_the_mix(caches) -> None:
    a, b, c = caches
    mixture = MixedLatents([replaced_shapes(a), replaced_shapes(b), c], (5, 2, 1))
    plan = loader(mixture).plan
    assert len(plan.order.table) == 8
    for start in (0, 40):  # any period, wherever it begins
        steps = [plan.micro_batch_rows(step) for step in range(start, start + 4)]
        found = Counter(plan.buckets[share.bucket].dataset for step in steps for share in step)
        assert found == {0: 5, 1: 2, 2: 1}


def replaced_shapes(cache: Cache) -> Cache:
    """Return the cache without its clips."""
    index = cache.index.copy()
    index["bucket"][index["bucket"] == 1] = 65535
    return Cache(cache.folder, replace(cache.manifest, buckets=(IMAGE,)), index)


def test_shares_of_caches_with_several_shapes_are_kept_to_a_group_of_each_in_a_period(caches) -> None:
    mixture = MixedLatents(caches, (0.5, 0.3, 0.2))
    plan = loader(mixture).plan
    period = len(plan.order.table)
    found = Counter(plan.buckets[bucket].dataset for bucket in plan.order.table)
    for number, share in enumerate((0.5, 0.3, 0.2)):
        shapes = sum(bucket.dataset == number for bucket in plan.buckets)
        assert abs(found[number] - share * period) <= shapes


def test_without_a_mix_every_sample_is_seen_as_often_as_in_one_cache(caches, tmp_path) -> None:
    a, b, _ = caches
    both = loader(MixedLatents([a, b])).plan
    one = loader(CachedLatents(make_cache(tmp_path, SHARDS["a"] + SHARDS["b"]))).plan
    assert both.group_sizes == [*one.group_sizes, *one.group_sizes]
    assert np.add(both.weights[:2], both.weights[2:]) == pytest.approx(one.weights)


@pytest.mark.parametrize(("ranks", "micro_batch"), [(2, 0), (4, 1)])
def test_a_step_is_the_same_for_any_number_of_ranks(caches, ranks, micro_batch) -> None:
    mixture = MixedLatents(caches, (1, 2, 1))
    for step in (0, 7):
        one, many = (
            {
                int(position): (int(batch.id[row]), batch.source, batch.x[row].numpy().tobytes())
                for rank in range(count)
                for batch in loader(mixture, rank, count, micro_batch).load(step)
                for row, position in enumerate(batch.position)
            }
            for count in (1, ranks)
        )
        assert one == many


def test_ids_differ_between_caches_and_tell_the_sample(caches) -> None:
    loaded = [batch for step in range(12) for batch in loader(MixedLatents(caches)).load(step)]
    seen = {(int(i), batch.source) for batch in loaded for i in batch.id}
    assert len({sample for sample, _ in seen}) == len(seen) == sum(len(cache.index) for cache in caches)
    for batch in loaded:
        for sample, x in zip(batch.id.tolist(), batch.x, strict=True):
            number, row = divmod(sample, IDS)
            assert batch.source == caches[number].place
            assert (x.numpy() == latents_of(row, tuple(x.shape))).all()


def test_the_first_cache_alone_is_ordered_as_ever(caches) -> None:
    alone, mixture = loader(CachedLatents(caches[0])), loader(MixedLatents(caches[:2]))
    assert [batch.source for batch in alone.load(0)] == ["", ""]
    for ours, theirs in zip(alone.plan.order._streams, mixture.plan.order._streams, strict=False):
        assert (ours.take(0, 20)[0] == theirs.take(0, 20)[0]).all()


def test_statistics_are_those_of_one_cache_with_all_samples(caches) -> None:
    rows = [latents_of(row, s) for sh in SHARDS.values() for row, s in enumerate(s for x in sh for s in x)]
    sums = [LatentSums.of(row[None]) for row in rows]
    pooled, whole = MixedLatents(caches, (9, 1, 1)).statistics(None, WORLD), sum(sums[1:], sums[0])
    assert pooled["count"] == whole.count
    assert pooled["mean"] == pytest.approx(whole.statistics()["mean"], abs=1e-12)
    assert pooled["std"] == pytest.approx(whole.statistics()["std"], abs=1e-12)


def test_the_fingerprint_covers_the_caches_their_order_and_the_mix(caches) -> None:
    a, b = (
        Cache(c.folder, replace(c.manifest, fingerprint=name), c.index)
        for c, name in zip(caches, "ab", strict=False)
    )
    kinds = [
        MixedLatents([a, b]),
        MixedLatents([b, a]),
        MixedLatents([a, b], (1, 1)),
        MixedLatents([a, b], (1, 2)),
    ]
    assert len({mixture.facts.fingerprint for mixture in kinds}) == 4
    assert MixedLatents([a, b], (1, 2)).facts.fingerprint == kinds[3].facts.fingerprint


def test_the_report_has_a_line_for_each_cache(caches) -> None:
    lines = bucket_lines(loader(MixedLatents(caches[:2], (3, 1))).plan)
    assert lines[0] == f"{caches[0].place}: 28 samples (65.1%), 75.0% of groups"
    assert lines[1] == f"{caches[1].place}: 15 samples (34.9%), 25.0% of groups"
    assert lines[2].startswith(f"latents 3x1x4x4 of {caches[0].place}: 20 samples (46.5%), ")
    assert len(lines) == 7


def changed(cache: Cache, **fields: object) -> Cache:
    return Cache(cache.folder, replace(cache.manifest, **fields), cache.index)


def test_caches_of_two_autoencoders_are_refused_with_field_values_and_folders(caches) -> None:
    made = {"encoder_config": {"width": 8}, "encoder": "a", "normalisation": None}
    first, other = (changed(c, extra={**c.manifest.extra, "made_from": made}) for c in caches[:2])
    for name, value, told in (
        ("encoder", "z", "encoder is a in the first and z in the second"),
        ("encoder_config", {"width": 9}, "encoder_config.width is 8 in the first and 9 in the second"),
        (
            "normalisation",
            {"mean": [1]},
            r"normalisation is None in the first and None|normalisation.mean is",
        ),
    ):
        wrong = changed(other, extra={**other.manifest.extra, "made_from": {**made, name: value}})
        with pytest.raises(UserError, match=f"{first.place} and {other.place} cannot be mixed: {told}"):
            MixedLatents([first, wrong])
    assert MixedLatents([first, other])


def test_tables_of_classes_must_agree_where_there_are_labels(caches) -> None:
    first, other = (changed(c, classes=("cat", "dog")) for c in caches[:2])
    with pytest.raises(UserError, match=r"classes.1 is dog in the first and cow in the second"):
        MixedLatents([first, changed(other, classes=("cat", "cow"))])
    with pytest.raises(UserError, match=r"classes.0 is cat in the first and None in the second"):
        MixedLatents([first, changed(other, classes=())])
    silent = changed(other, classes=())
    silent.index = other.index.copy()
    silent.index["label"] = -1
    for pair in ([first, silent], [silent, first]):
        assert MixedLatents(pair).facts.classes == ("cat", "dog")


def test_a_raw_dataset_and_a_cache_twice_are_refused(caches) -> None:
    with pytest.raises(UserError, match="is a raw dataset, and only latent caches can be mixed"):
        MixedLatents([caches[0], changed(caches[1], kind="raw")])
    with pytest.raises(UserError, match="is to be mixed with itself; weights say how often it comes"):
        MixedLatents([caches[0], caches[1], caches[0]])
