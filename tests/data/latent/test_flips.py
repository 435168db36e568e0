"""The mirrored view of cached samples: found by row, drawn by key, damage named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from core.distributed.ranks import World
from core.draws import Draws
from core.errors import WorkError
from data.dataset.schema import write_index
from data.latent.pack_reading import read_part, scan_part
from data.latent.pack_rows import flip_rows, index_rows
from data.latent.packs import Pack, write_part
from data.latent.reading import LatentReader
from data.loading.loader import LatentLoader, draw_flips
from data.order.steps import LoaderConfig
from tests.data.caches import CLIP, IMAGE, Cache, latents_of, make_cache, packs_of

SHAPES = [IMAGE, CLIP, IMAGE, IMAGE, IMAGE, IMAGE, CLIP]
ABSENT = 2


def mirrored(latents: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(latents[..., ::-1])


def with_flips(pack: Pack) -> Pack:
    return replace(pack, flips=mirrored(pack.latents))


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    """Return one shard of pictures and clips with both views; row 2 is absent."""
    made = make_cache(tmp_path, [SHAPES], [ABSENT])
    path = tmp_path / made.manifest.shards[0].name
    places = write_part(path, 0, [with_flips(pack) for pack in packs_of(0, SHAPES, [ABSENT])])
    index = index_rows(path, places, shard=0, first=0, buckets=[IMAGE, CLIP])
    files = write_index(tmp_path, index, flips=flip_rows(places, index))
    record = replace(made.manifest.shards[0], bytes=path.stat().st_size)
    manifest = replace(made.manifest, shards=(record,), files=files, buckets=(IMAGE, CLIP))
    return Cache(tmp_path, manifest, index)


def test_either_view_of_every_sample_is_found_by_its_row(cache: Cache) -> None:
    reader = LatentReader(cache.folder, cache.manifest, cache.index)
    rows = np.array([5, 0, 3, ABSENT, 4])
    flipped = np.array([True, False, False, True, True])
    found = reader.gather(rows, flipped=flipped).numpy()
    for row, is_flipped, latents in zip(rows.tolist(), flipped, found, strict=True):
        plain = latents_of(row, IMAGE) * (row != ABSENT)
        assert (latents == (mirrored(plain) if is_flipped else plain)).all()


def test_a_part_with_both_views_reads_back_and_scans_to_the_same_offsets(cache: Cache) -> None:
    path = cache.folder / cache.manifest.shards[0].name
    packs = list(read_part(path))
    assert all((pack.flips == mirrored(pack.latents)).all() for pack in packs)
    offsets = flip_rows(scan_part(path), cache.index)
    assert (offsets == np.load(cache.folder / "flip.npy")).all()
    assert np.flatnonzero(offsets == 0).tolist() == [ABSENT]


def test_the_loader_draws_the_view_by_key_alone(cache: Cache) -> None:
    world, config = World(0, 1, 0, torch.device("cpu")), LoaderConfig(group_size=8, rank_multiple=8)
    whole = LatentLoader([cache], config, world, 3)
    taken = set()
    for step in range(6):
        (batch,) = whole.load(step)
        flips = draw_flips(Draws(3, step, batch.id, batch.position))
        shape = tuple(batch.x.shape[1:])
        for row, is_flipped, x in zip(batch.id.tolist(), flips.tolist(), batch.x, strict=True):
            plain = latents_of(row, shape) * (row != ABSENT)
            assert (x.numpy() == (mirrored(plain) if is_flipped else plain)).all()
            taken.add(is_flipped)
        parts = LatentLoader([cache], config, world, 3, micro_batch=3).load(step)
        assert torch.equal(torch.cat([part.x for part in parts]), batch.x)
    assert taken == {True, False}


def test_a_view_of_another_shape_or_a_lost_table_is_named(cache: Cache) -> None:
    path = cache.folder / cache.manifest.shards[0].name
    pack = packs_of(0, SHAPES)[0]
    write_part(path, 0, [replace(pack, flips=mirrored(pack.latents[:2]))])
    with pytest.raises(
        WorkError, match=r"000000-0000.flip.npy is \(2, .* but 000000-0000.latent.npy is \(4,"
    ):
        scan_part(path)
    np.save(cache.folder / "flip.npy", np.zeros(3, "<u8"))
    with pytest.raises(WorkError, match=r"flip.npy: uint64 \(3,\) does not fit 7 samples"):
        LatentReader(cache.folder, cache.manifest, cache.index)
    (cache.folder / "flip.npy").unlink()
    with pytest.raises(WorkError, match=r"flip.npy: not readable"):
        LatentReader(cache.folder, cache.manifest, cache.index)


def test_a_cache_without_mirrored_views_gives_none(tmp_path: Path) -> None:
    cache = make_cache(tmp_path, [[IMAGE] * 3])
    reader = LatentReader(cache.folder, cache.manifest, cache.index)
    assert not reader.has_flips
    with pytest.raises(ValueError, match="holds no mirrored views"):
        reader.gather(np.array([0]), flipped=np.array([True]))
