"""What gathering latents costs: every byte is read once, and looked at once, right after that."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest
import torch

from core.errors import WorkError
from data.latent import parts as parts_module
from data.latent import reading
from data.latent.parts import PIECE_BYTES
from data.latent.reading import LatentReader
from tools.bench.material import IMAGE, latents_of, make_cache

LARGE = (1, 16, 5, 90, 64)  # 921,600 bytes, no part of a piece


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    return make_cache(tmp_path_factory.mktemp("large") / "cache", 12, LARGE, shards=3)


@pytest.fixture
def calls(monkeypatch):
    """Record, in order, the bytes of every read and of every look: (what, first byte in memory, bytes)."""
    found: list[tuple[str, int, int]] = []
    read, look = parts_module.read_into, reading.is_finite

    def place(buffer) -> tuple[int, int]:
        array = np.frombuffer(buffer, np.uint8)
        return array.ctypes.data, array.nbytes

    def recorded_read(file, buffer, offset):
        found.append(("read", *place(buffer)))
        return read(file, buffer, offset)

    def recorded_look(array):
        found.append(("look", array.ctypes.data, array.nbytes))
        return look(array)

    monkeypatch.setattr(parts_module, "read_into", recorded_read)
    monkeypatch.setattr(reading, "is_finite", recorded_look)
    return found


def test_large_latents_are_looked_at_piece_by_piece_as_they_are_read(large, calls):
    rows = np.array([0, 1, 2, 5, 6, 9])
    reader = LatentReader(large.folder, large.manifest, large.index)
    found = reader.gather(rows)
    assert np.array_equal(found.numpy(), latents_of(rows, LARGE))
    reads, looks = calls[::2], calls[1::2]
    assert [(*place,) for _, *place in reads] == [(*place,) for _, *place in looks]  # each right after it
    assert {name for name, *_ in reads} == {"read"}
    assert max(size for *_, size in reads) <= PIECE_BYTES
    places = sorted((at, size) for _, at, size in reads)
    assert places[0][0] == found.data_ptr()  # straight into the batch: no copy in between
    assert all(at + size == after for (at, size), (after, _) in itertools.pairwise(places))
    assert sum(size for *_, size in reads) == found.nbytes


def test_without_the_check_a_run_of_samples_is_one_read(large, calls):
    reader = LatentReader(large.folder, large.manifest, large.index)
    found = reader.gather(np.array([0, 1, 2, 5]), finite=False)
    size = found.nbytes // 4
    assert [(name, count) for name, _, count in calls] == [("read", 3 * size), ("read", size)]


def test_small_latents_are_looked_at_once(tmp_path, calls):
    cache = make_cache(tmp_path / "small", 512, IMAGE, shards=2)
    found = LatentReader(cache.folder, cache.manifest, cache.index).gather(np.arange(0, 512, 2))
    assert [name for name, *_ in calls] == ["look", "look"]
    assert sum(size for *_, size in calls) == found.nbytes == 2 * PIECE_BYTES


@pytest.mark.parametrize("value", [0x7C00, 0xFC00, 0x7FFF, 0xFE01])
@pytest.mark.parametrize("row", [0, 6, 11])
def test_a_value_anywhere_in_a_large_latent_that_is_not_finite_is_found(tmp_path, value, row):
    cache = make_cache(tmp_path / "cache", 12, LARGE, shards=3)
    entry = cache.index[row]
    part = cache.folder / cache.manifest.shards[int(entry["shard"])].name
    place = np.random.default_rng(row + value).integers(int(entry["size"]) // 2)
    with open(part, "r+b") as file:
        file.seek(int(entry["offset"]) + 2 * int(place))
        file.write(np.uint16(value).tobytes())
    reader = LatentReader(cache.folder, cache.manifest, cache.index)
    with pytest.raises(WorkError, match=rf"{re.escape(part.name)}: damaged, sample {row} is not finite"):
        reader.gather(np.arange(12))
    assert not torch.isfinite(reader.gather(np.arange(12), finite=False)[row]).all()
