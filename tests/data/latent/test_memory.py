"""Batch memory is used again when the last tensor on it is gone, and never before."""

from __future__ import annotations

import threading

import numpy as np
import torch

from core.distributed.ranks import World
from data.latent import memory
from data.latent.memory import BatchMemory
from data.loading.ahead import read_ahead
from data.loading.loader import LatentLoader
from data.order.steps import LoaderConfig
from tests.data.caches import make_cache

SIZE = 3 << 20


def test_memory_is_used_again_when_nothing_looks_at_it():
    blocks = BatchMemory()
    first = blocks.empty(SIZE)
    place = first.data_ptr()
    del first
    assert blocks.empty(SIZE).data_ptr() == place


def test_any_view_keeps_it():
    blocks = BatchMemory()
    for view_of in (
        lambda x: x[5:9],
        lambda x: x.view(torch.float16).view(2, -1)[1],
        lambda x: x.numpy()[7:],
        lambda x: torch.utils.data.default_convert({"x": x.detach()}),
        lambda x: memoryview(x.numpy()),
    ):
        whole = blocks.empty(SIZE)
        place, kept = whole.data_ptr(), view_of(whole)
        del whole
        other = blocks.empty(SIZE)
        assert other.data_ptr() != place
        del other, kept
        again = [blocks.empty(SIZE) for _ in range(2)]
        assert place in [tensor.data_ptr() for tensor in again]
        del again


def test_a_tensor_may_end_in_another_thread():
    blocks = BatchMemory()
    held = [blocks.empty(SIZE)]
    place = held[0].data_ptr()
    thread = threading.Thread(target=held.clear)
    thread.start()
    thread.join()
    assert blocks.empty(SIZE).data_ptr() == place


def test_tensors_outlive_the_memory_that_gave_them():
    blocks = BatchMemory()
    tensor = blocks.empty(SIZE).fill_(7)
    del blocks
    assert (tensor == 7).all()


def test_a_shorter_batch_takes_a_longer_block_but_not_a_far_longer_one():
    blocks = BatchMemory()
    long = blocks.empty(16 << 20)
    place = long.data_ptr()
    del long
    assert blocks.empty(4 << 20).data_ptr() != place
    nearly = blocks.empty(12 << 20)
    assert nearly.data_ptr() == place
    assert len(nearly) == 12 << 20


def test_what_waits_is_bounded(monkeypatch):
    monkeypatch.setattr(memory, "KEPT_BYTES", 9 << 20)
    blocks = BatchMemory()
    several = [blocks.empty(4 << 20) for _ in range(5)]
    del several
    one = blocks.empty(4 << 20)
    assert len(blocks._free) == 2  # of four that waited
    del one


def test_a_loader_needs_no_more_memory_than_its_consumer_holds(tmp_path, monkeypatch):
    """Without an end to them, steps are made in the blocks of the first few."""
    monkeypatch.setattr(memory, "_SMALL", 1)
    made = []
    new_block = memory._new_block
    monkeypatch.setattr(memory, "_new_block", lambda size: made.append(size) or new_block(size))
    cache = make_cache(tmp_path, [[(1, 2, 1, 8, 8)] * 16] * 2, counts=True)
    config = LoaderConfig(group_size=4, rank_multiple=1, prefetch=2)
    loader = LatentLoader([cache], config, World(0, 1, 0, torch.device("cpu")), seed=0)
    steps = read_ahead(loader.load, 0, config.prefetch)
    kept = [next(steps) for _ in range(3)]
    values = [np.array(step[0].x) for step in kept]
    for _ in range(40):
        next(steps)
    assert (
        len(made) <= 3 + config.prefetch + 2
    )  # held here, read ahead, the last that was given, in the making
    assert all((step[0].x.numpy() == value).all() for step, value in zip(kept, values, strict=True))
    steps.close()
