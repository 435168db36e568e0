"""Find which samples of a permuted block come before a group's boundary, without permuting it."""

from __future__ import annotations

import math
from collections import OrderedDict
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from core.permutations import sort_keys

_KEPT = 4


class Cut(NamedTuple):
    """Which samples of a block come before a place of it.

    is_before: (samples,) bool, of the rows of its shards one after another.  counts: (shards,) how many of
    each shard.
    """

    is_before: np.ndarray
    counts: np.ndarray


class Cuts:
    """Cuts of the blocks of bucket `number`. The last ones are kept, since where a group ends the next one
    begins, and the keys of the last block, which groups smaller than it cut again: 8 bytes a sample.
    """

    def __init__(self, *, number: int, seed: int) -> None:
        self._number, self._seed = number, seed
        self._kept: OrderedDict[tuple[int, int, int], Cut] = OrderedDict()
        self._drawn = (-1, -1), np.empty(0, np.uint64)

    def at(self, epoch: int, block: int, sizes: np.ndarray, count: int) -> Cut:
        """Return which samples are among the first `count` of a permuted block, neither none nor all.

        sizes: (shards,) samples of each shard of the block.
        """
        key = (epoch, block, count)
        if key not in self._kept:
            ends = np.cumsum(sizes).tolist()
            is_before = among_smallest(self._keys(epoch, block, ends[-1]), count)
            counts = [np.count_nonzero(is_before[start:stop]) for start, stop in pairwise([0, *ends])]
            self._kept[key] = Cut(is_before, np.array(counts))
            if len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        return self._kept[key]

    def _keys(self, epoch: int, block: int, size: int) -> np.ndarray:
        """Return the keys by which a block is permuted, (size,) uint64."""
        if self._drawn[0] != (epoch, block):
            self._drawn = (epoch, block), sort_keys(self._seed, "samples", (self._number, epoch, block), size)
        return self._drawn[1]


def among_smallest(keys: np.ndarray, n: int) -> np.ndarray:
    """Return which of keys (m,) uint64, thought to be uniform, are the n smallest: (m,) bool; of equal ones
    the first.

    The n-th smallest then nearly always lies within three standard deviations of n / m of the range, and few
    keys do, among which alone it is looked for: a fifth of what it takes to draw the keys, where sorting them
    all takes 15 times as much as that.
    """
    share, size = n / len(keys), len(keys)
    spread = 3 * math.sqrt(share * (1 - share) / size) + 1 / size
    low, high = (
        np.uint64(min(max(int(edge * 2**64), 0), 2**64 - 1)) for edge in (share - spread, share + spread)
    )
    chosen = keys < low
    near = np.flatnonzero((keys <= high) ^ chosen)
    before = int(np.count_nonzero(chosen))
    if not before < n <= before + len(near):
        chosen[:], near, before = False, np.arange(size), 0
    among = keys[near]
    last = np.partition(among, n - before - 1)[n - before - 1]
    chosen[near[among < last]] = True
    equal = near[among == last]
    chosen[equal[: n - int(np.count_nonzero(chosen))]] = True
    return chosen
