"""The machine's limits: the bytes of latents by system calls, and members parsed one by one."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from core.files import open_regular
from core.reading.open_files import KeptFiles
from data.dataset.index import Dataset
from data.dataset.tars import parse_sample
from data.latent.memory import BatchMemory
from data.latent.packs import LATENT_DTYPE, Shape

Read = tuple[np.ndarray, torch.Tensor]  # ids (n,) and their latents (n, ...)


def in_order(
    cache: Dataset, batch: int, steps: int, shape: Shape, memory: BatchMemory | None = None
) -> Iterator[Read]:
    """Read as many bytes by `preadv` straight into the batch, in file order, a run of samples a call.

    memory: gives every batch a tensor that may be kept; without it all are one, overwritten each time.
    """
    index = np.asarray(cache.index)
    size = 2 * int(np.prod(shape))
    kept = torch.empty(batch * size, dtype=torch.uint8)
    files = KeptFiles()
    for step_index in range(steps):
        out = memory.empty(batch * size) if memory else kept
        buffer = out.numpy().data
        rows = np.arange(step_index * batch, (step_index + 1) * batch)
        shards, offsets = index["shard"][rows].astype(int), index["offset"][rows].astype(int)
        breaks = np.flatnonzero((np.diff(offsets) != size) | (np.diff(shards) != 0)) + 1
        for start, stop in itertools.pairwise([0, *breaks.tolist(), batch]):
            file = files.get(int(shards[start]), cache.open_shard)
            os.preadv(file.fileno(), [buffer[start * size : stop * size]], offsets[start])
        yield rows, out.view(torch.float16).view(batch, *shape)


def one_by_one(
    cache: Dataset, order: Sequence[np.ndarray], shape: Shape, memory: BatchMemory
) -> Iterator[Read]:
    """Read the same samples in the same order as this project does, one `preadv` each."""
    index = np.asarray(cache.index)
    size = 2 * int(np.prod(shape))
    files = KeptFiles()
    for rows in order:
        out = memory.empty(len(rows) * size)
        buffer, at = out.numpy().data, 0
        entries = index.take(rows)
        for shard, offset in zip(entries["shard"].tolist(), entries["offset"].tolist(), strict=True):
            file = files.get(shard, cache.open_shard)
            at += os.preadv(file.fileno(), [buffer[at : at + size]], offset)
        yield rows, out.view(torch.float16).view(len(rows), *shape)


def parsed(
    paths: Sequence[Path], index: np.ndarray, order: Sequence[np.ndarray], shape: Shape
) -> Iterator[Read]:
    """Members `KEY.latent.npy` of plain tars, whose headers are read and checked each time."""
    head = 128 + 512  # of the .npy, and of the tar
    files = KeptFiles()
    for rows in order:
        out = np.empty((len(rows), *shape), LATENT_DTYPE)
        for place, entry in enumerate(index[rows]):
            start, size = int(entry["offset"]) - head, head + int(entry["size"])
            file = files.get(int(entry["shard"]), lambda shard: open_regular(paths[shard]))
            _, found = parse_sample(os.pread(file.fileno(), size + -size % 512, start))
            out[place] = np.frombuffer(found["latent.npy"], LATENT_DTYPE, offset=128).reshape(shape)
        yield rows, torch.from_numpy(out)
