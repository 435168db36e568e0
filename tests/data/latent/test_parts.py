"""Ranges copied from parts: system calls give what mapped parts give, one for each run of neighbours."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import WorkError
from core.reading.open_files import FILES, MAPS
from data.dataset.tars import read_into
from data.latent import parts as parts_module
from data.latent.parts import Parts
from tests.data.caches import IMAGE, Cache, make_cache

LENGTH = 4096  # bytes at the head of every part that ranges are taken from


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Cache:
    return make_cache(tmp_path_factory.mktemp("cache"), [[IMAGE] * 6, [IMAGE] * 5, [IMAGE] * 4])


def copied(how, places: list[tuple[int, int]], size: int) -> torch.Tensor:
    numbers, offsets = np.array(places, np.int64).T
    out = torch.empty((len(places), size), dtype=torch.uint8)
    how(numbers, offsets, out)
    return out


@settings(max_examples=50, deadline=None)
@given(
    st.integers(1, 600),
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, LENGTH - 600)), min_size=1, max_size=9),
)
def test_both_ways_give_the_bytes_of_the_files(cache, size, places):
    files = [(cache.folder / shard.name).read_bytes() for shard in cache.manifest.shards]
    wanted = [list(files[part][offset : offset + size]) for part, offset in places]
    parts = Parts(cache.folder, cache.manifest)
    assert copied(parts.select, places, size).tolist() == wanted
    assert copied(parts.read, places, size).tolist() == wanted


@pytest.fixture
def calls(monkeypatch) -> list[int]:
    """Record the bytes that each system call reads."""
    counted: list[int] = []
    preadv = os.preadv

    def count(file, buffers, offset):
        counted.append(preadv(file, buffers, offset))
        return counted[-1]

    monkeypatch.setattr("os.preadv", count)
    return counted


def test_neighbours_are_one_read(cache, calls):
    places = [(0, 0), (0, 100), (0, 200), (0, 400), (1, 500), (2, 600), (2, 700)]
    copied(Parts(cache.folder, cache.manifest).read, places, 100)
    assert calls == [300, 100, 100, 200]


def test_large_ranges_are_read_and_small_ones_mapped(cache, calls, monkeypatch):
    monkeypatch.setattr(parts_module, "_READ_BYTES", 128)
    parts = Parts(cache.folder, cache.manifest)
    copied(parts.copy, [(0, 0), (1, 0)], 127)
    assert calls == []
    copied(parts.copy, [(0, 0), (1, 0)], 128)
    assert calls == [128, 128]


def test_a_read_that_comes_in_pieces_goes_on(tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(bytes(range(100)))
    preadv = os.preadv
    monkeypatch.setattr("os.preadv", lambda file, buffers, offset: preadv(file, [buffers[0][:7]], offset))
    buffer = bytearray(50)
    with open(tmp_path / "file", "rb") as file:
        assert read_into(file.fileno(), memoryview(buffer), 10) == 50
        assert buffer == bytes(range(10, 60))
        assert read_into(file.fileno(), memoryview(buffer), 90) == 10


@pytest.mark.parametrize("least", [1, 1 << 20], ids=["read", "select"])
def test_a_range_outside_names_the_part(cache, least, monkeypatch):
    monkeypatch.setattr(parts_module, "_READ_BYTES", least)
    parts = Parts(cache.folder, cache.manifest)
    end = cache.manifest.shards[1].bytes
    assert copied(parts.copy, [(1, end - 8)], 8).tolist() == [[0] * 8]
    for offset in (end - 7, -1):
        with pytest.raises(WorkError, match=r"000001\.tar: the index points behind its end"):
            copied(parts.copy, [(0, 0), (1, offset)], 8)


def test_a_part_cut_off_while_it_is_open_is_named(tmp_path):
    cache = make_cache(tmp_path, [[IMAGE] * 6])
    parts = Parts(cache.folder, cache.manifest)
    copied(parts.read, [(0, 1024)], 8)
    os.truncate(tmp_path / "000000.tar", 1024)
    with pytest.raises(WorkError, match=r"000000\.tar: cut off since it was opened"):
        copied(parts.read, [(0, 1024)], 8)


@pytest.mark.parametrize("how", ["select", "read"])
def test_few_parts_stay_open(cache, how, monkeypatch):
    for pool in (FILES, MAPS):
        monkeypatch.setattr(pool, "most", lambda: 1)
        pool.let_go()
    parts = Parts(cache.folder, cache.manifest)
    places = [(0, 0), (1, 0), (2, 0), (0, 512)]
    found = copied(getattr(parts, how), places, 16)
    assert torch.equal(found, copied(Parts(cache.folder, cache.manifest).select, places, 16))
    assert [len(FILES), len(MAPS)] == ([0, 1] if how == "select" else [1, 1])
