"""One contract for all sources of latents for training: a cache, several, and raw data encoded online."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from core.batch import Batch
from core.distributed.ranks import World
from core.errors import WorkError
from core.files import write_text
from data.dataset.index import Dataset
from data.latent.normalising import LatentSums, Normaliser
from data.loading.ahead import read_ahead
from data.loading.sources import measured as measuring
from data.loading.sources.cached import CachedLatents
from data.loading.sources.config import EncodingConfig
from data.loading.sources.kinds import LatentSource, Loader
from data.loading.sources.mixed import MixedLatents
from data.loading.sources.online import OnlineLatents
from data.order.buckets import Bucket, BucketConfig
from data.order.steps import LoaderConfig
from tests.data.caches import CLIP, IMAGE, make_cache
from tests.data.raw_datasets import damage, make_raw

WORLD = World(0, 1, 0, torch.device("cpu"))
CONFIG = LoaderConfig(group_size=8, groups_per_step=2)
ENCODING = EncodingConfig(
    buckets=BucketConfig(shapes=((1, 16, 16), (5, 16, 16))), quarantine_budget=2, statistics_samples=12
)


class HalvingEncoder:
    """Averages 4 x 4 pixels and keeps every second frame; log-variances are constant."""

    moments = 2

    def __init__(self) -> None:
        self.identity: dict[str, Any] = {"encoder": "halving"}
        self.device = torch.device("cpu")

    def to(self, device: torch.device) -> None:
        self.device = device

    def encode_there(self, pixels: Tensor) -> Tensor:
        mean = torch.nn.functional.avg_pool3d(pixels, (1, 4, 4))[:, :, ::2]
        return torch.stack([mean, torch.full_like(mean, -2.0)], 1)

    def latent_shape(self, bucket: Bucket) -> tuple[int, int, int, int]:
        return 3, (bucket.frames + 1) // 2, bucket.height // 4, bucket.width // 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sources")
    make_cache(folder / "one", [[IMAGE, CLIP] * 8, [IMAGE] * 4], absent=[3])
    make_cache(folder / "two", [[IMAGE] * 9, [CLIP] * 3])
    for name in ("one", "two"):
        write_text(folder / name / "config.yaml", "autoencoder: its/folder\n")
    damage(make_raw(folder, images=11, clips=5), 6)
    return folder


def cached(folder: Path, run: Path) -> LatentSource:
    return CachedLatents(Dataset(folder / "one"))


def mixed(folder: Path, run: Path) -> LatentSource:
    return MixedLatents([Dataset(folder / "one"), Dataset(folder / "two")], (2, 1))


def encoded_online(folder: Path, run: Path) -> OnlineLatents:
    made_with = {"autoencoder": "its/folder"}
    return OnlineLatents(
        Dataset(folder / "raw"), HalvingEncoder(), None, ENCODING, run=run, made_with=made_with
    )


KINDS = [cached, mixed, encoded_online]


@pytest.fixture(params=KINDS, ids=lambda kind: kind.__name__)
def opened(request: pytest.FixtureRequest, folder: Path, tmp_path: Path) -> Callable[[], LatentSource]:
    """Return a function that opens a source of this kind, the same at every call."""
    return partial(request.param, folder, tmp_path / "run")


def bucket_of(loader: Loader, batch: Batch) -> int:
    names = [(bucket.name, bucket.source) for bucket in loader.plan.buckets]
    return names.index((batch.bucket, batch.source))


def test_what_arrives_and_what_is_made_of_it_has_the_shapes_of_its_bucket(
    opened: Callable[[], LatentSource],
) -> None:
    source = opened()
    source.to(WORLD.device)
    loader, facts, seen = source.loader(CONFIG, WORLD, 5), source.facts, set()
    for batch in [*loader.largest(), *(batch for step in range(6) for batch in loader.load(step))]:
        bucket = bucket_of(loader, batch)
        seen.add(bucket)
        assert tuple(batch.x.shape[1:]) == facts.batch_shapes[bucket]
        moments = source.moments(batch.x)
        assert moments.dtype == torch.float16
        assert tuple(moments.shape) == (len(batch), *facts.shapes[bucket])
        assert source.gives_latents == (moments is batch.x)
        assert source.latent_grid(tuple(batch.x.shape[-3:])) == tuple(moments.shape[-3:])
    assert seen == set(range(len(facts.shapes)))
    assert facts.latent_shapes == [shape[1:] for shape in facts.shapes]


def test_counts_are_those_of_the_plan_and_of_the_whole(opened: Callable[[], LatentSource]) -> None:
    source = opened()
    buckets = source.loader(CONFIG, WORLD, 5).plan.buckets
    assert source.sample_counts() == [len(bucket.rows) for bucket in buckets]
    assert sum(source.sample_counts()) == source.facts.samples
    assert len(source.facts.shapes) == len(source.facts.batch_shapes) == len(buckets)


def test_opened_again_it_is_the_same_and_gives_the_same(opened: Callable[[], LatentSource]) -> None:
    one, other = opened(), opened()
    assert one.facts == other.facts
    assert one.facts.fingerprint
    assert list(one.facts.parts) == one.facts.place.split(", ")
    assert one.facts.encoder == one.facts.made_from["encoder"]
    ahead = read_ahead(one.loader(CONFIG, WORLD, 5).load, 3, CONFIG.prefetch)
    for made, loaded in zip(next(ahead), other.loader(CONFIG, WORLD, 5).load(3), strict=True):
        for name in ("order_hash", "bucket", "source", "tally"):
            assert getattr(made, name) == getattr(loaded, name), name
        for name in ("id", "position", "weight", "x"):
            assert torch.equal(getattr(made, name), getattr(loaded, name)), name
    ahead.close()  # type: ignore[attr-defined]


def test_ranks_and_micro_batches_share_the_step_of_one(opened: Callable[[], LatentSource]) -> None:
    def step(ranks: int, micro_batch: int) -> dict[int, tuple[int, bytes]]:
        loaders = [
            opened().loader(CONFIG, World(r, ranks, r, WORLD.device), 5, micro_batch) for r in range(ranks)
        ]
        return {
            int(position): (int(batch.id[row]), batch.x[row].numpy().tobytes())
            for loader in loaders
            for batch in loader.load(2)
            for row, position in enumerate(batch.position)
        }

    assert len(step(1, 0)) == 16
    assert step(1, 0) == step(2, 3)


def test_statistics_bring_what_is_given_to_unit_scale(opened: Callable[[], LatentSource]) -> None:
    source = opened()
    channels = source.facts.shapes[0][1]
    normaliser = Normaliser.from_dict(source.statistics(None, WORLD))
    assert len(normaliser.mean) == len(normaliser.std) == channels
    samples: dict[int, LatentSums] = {}
    loader = source.loader(CONFIG, WORLD, 5)
    for batch in (batch for step in range(8) for batch in loader.load(step)):
        moments = source.moments(batch.x).numpy()
        for row in np.flatnonzero(batch.weight.numpy()).tolist():
            samples[int(batch.id[row])] = LatentSums.of(moments[row : row + 1])
    total = sum(list(samples.values())[1:], next(iter(samples.values()))).statistics()
    assert normaliser.mean == pytest.approx(total["mean"], abs=0.1)
    assert normaliser.std == pytest.approx(total["std"], rel=0.1)


def test_it_tells_what_its_latents_are_made_with(opened: Callable[[], LatentSource]) -> None:
    assert opened().encoded_with("autoencoder") == "its/folder"
    assert opened().encoded_with("text_encoder") == ""
    assert (opened().facts.text_encoder, opened().facts.text_shape) == (None, None)
    assert "text_encoder" in opened().text_setting


def test_only_what_must_be_measured_is_kept(folder: Path, tmp_path: Path) -> None:
    kept = {"mean": [1.0, 2.0, 3.0], "std": [4.0, 5.0, 6.0]}
    assert encoded_online(folder, tmp_path).statistics(kept, WORLD) == kept
    for kind in (cached, mixed):
        source = kind(folder, tmp_path)
        assert source.statistics(kept, WORLD) == source.statistics(None, WORLD) != kept


@pytest.mark.parametrize(("ranks", "round_size"), [(2, 256), (3, 5), (5, 2)])
def test_ranks_share_the_measuring_and_change_no_bit(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ranks: int, round_size: int
) -> None:
    whole = encoded_online(folder, tmp_path).statistics(None, WORLD)
    measured: list[list[int]] = [[] for _ in range(ranks)]
    outcomes: list[Any] = [None] * ranks
    rank, barrier = threading.local(), threading.Barrier(ranks, timeout=60)

    def exchange(work: Callable[[], Any]) -> list[Any]:
        outcomes[rank.number] = work()
        barrier.wait()
        found = list(outcomes)
        barrier.wait()
        return found

    def measure(number: int, results: list[Any]) -> None:
        rank.number = number
        source = encoded_online(folder, tmp_path)
        latents = source._latents
        monkeypatch.setattr(source, "_latents", lambda row: measured[number].append(row) or latents(row))
        results[number] = source.statistics(None, World(number, ranks, number, WORLD.device))

    monkeypatch.setattr(measuring, "on_every_rank", exchange)
    monkeypatch.setattr(measuring, "ROUND", round_size)
    results: list[Any] = [None] * ranks
    threads = [threading.Thread(target=measure, args=(number, results)) for number in range(ranks)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [whole] * ranks
    assert len({row for rows in measured for row in rows}) == sum(map(len, measured)) == 12
    assert max(map(len, measured)) <= -(-round_size // ranks) * -(-12 // round_size)


def test_a_source_of_which_nothing_can_be_encoded_is_an_error(folder: Path, tmp_path: Path) -> None:
    source = encoded_online(folder, tmp_path)
    source._latents = lambda row: None  # type: ignore[method-assign]
    with pytest.raises(WorkError, match=r"none of 12 samples of .* could be encoded"):
        source.statistics(None, WORLD)
