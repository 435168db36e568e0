"""Gathering from a cache equals its plain twin."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import WorkError
from data.latent.members import is_finite
from data.latent.pack_reading import read_part
from data.latent.reading import LatentReader, are_finite, compare
from tests.data.caches import CLIP, IMAGE, Cache, make_cache

SHARDS = [[IMAGE, CLIP] * 5, [IMAGE] * 9, [CLIP] * 3 + [IMAGE]]
ABSENT = (3, 8, 12)
FLAT = [shape for shard in SHARDS for shape in shard]


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Cache:
    return make_cache(tmp_path_factory.mktemp("cache"), SHARDS, ABSENT)


def reader(cache: Cache) -> LatentReader:
    return LatentReader(cache.folder, cache.manifest, cache.index)


def plain(cache: Cache) -> dict[int, np.ndarray]:
    """Read every sample of every part by `tarfile` and NumPy: the plain twin."""
    packs = [pack for shard in cache.manifest.shards for pack in read_part(cache.folder / shard.name)]
    return {int(i): x for pack in packs for i, x in zip(pack.ids, pack.latents, strict=True)}


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_gather_equals_reading_the_tars(cache, data):
    shape = data.draw(st.sampled_from([IMAGE, CLIP]))
    rows = data.draw(st.lists(st.sampled_from([r for r, s in enumerate(FLAT) if s == shape]), min_size=1))
    latents = reader(cache).gather(np.array(rows))
    assert latents.dtype == torch.float16
    assert latents.shape == (len(rows), *shape)
    stored = plain(cache)
    for row, latent in zip(rows, latents.numpy(), strict=True):
        assert (latent == stored.get(row, np.zeros(shape))).all()


def test_the_fast_check_finds_what_isfinite_finds(monkeypatch):
    bits = torch.arange(-(2**15), 2**15).to(torch.int16).view(torch.float16)
    assert torch.equal(are_finite(bits[:, None]), torch.isfinite(bits))
    assert [is_finite(one.numpy()) for one in bits[:, None]] == torch.isfinite(bits).tolist()
    latents = torch.randn(5, 1, 2, 3, 4, 4).half()
    latents[1, 0, 1, 2, 3, 3], latents[3, 0, 0, 0, 0, 0] = torch.inf, torch.nan
    assert are_finite(latents).tolist() == [True, False, True, False, True]
    for piece in (1, 96, 200, 10**6):
        monkeypatch.setattr("data.latent.members._PIECE", piece)
        assert torch.equal(are_finite(latents), torch.isfinite(latents).flatten(1).all(1))
        assert are_finite(latents[::2].contiguous()).all()


def test_rows_of_two_shapes_are_an_error(cache):
    with pytest.raises(ValueError, match="one shape"):
        reader(cache).gather(np.array([0, 1]))


@pytest.fixture
def broken(tmp_path) -> Cache:
    return make_cache(tmp_path, SHARDS)


def test_a_missing_part_is_named_at_the_start(broken):
    (broken.folder / "000001.tar").unlink()
    with pytest.raises(WorkError, match=r"000001\.tar: missing"):
        reader(broken)


@pytest.mark.parametrize("size", [-1, 512])
def test_a_part_of_another_size_is_named(broken, size):
    path = broken.folder / "000001.tar"
    data = path.read_bytes()
    path.write_bytes(data[:size] if size < 0 else data + bytes(size))
    with pytest.raises(WorkError, match=r"000001\.tar: has \d+ bytes, the manifest says"):
        reader(broken).gather(np.array([10]))


@pytest.mark.parametrize(("field", "value"), [("offset", 10**9), ("size", 10)])
def test_an_index_that_does_not_fit_is_named(broken, field, value):
    index = broken.index.copy()
    index[field][0] = value
    with pytest.raises(WorkError, match="index"):
        LatentReader(broken.folder, broken.manifest, index).gather(np.array([0]))


def test_the_first_field_that_differs_is_told_with_both_values():
    a = {"encoder": {"weights": "abc", "config": {"width": 8}}, "store": "mean"}
    b = {"encoder": {"weights": "abc", "config": {"width": 16}}, "store": "moments"}
    assert compare(a, a) is None
    assert compare(a, b) == ("encoder.config.width", 8, 16)
