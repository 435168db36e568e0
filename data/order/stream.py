"""The endless stream of one bucket's samples: a permutation for each epoch, made shard by shard.

A group is so many places of it, with its rows sorted, and a rank has a slice of that. `Stream.part` finds the
slice without the group: blocks of shards that lie in it whole need no permutation, since their rows are
sorted anyhow, and of the at most two that it cuts only who comes before the cut matters. So it costs
O(shards of the group + samples of a block), and both are the same for any number of ranks but for the shards,
which are counted and not read. `take` is its plain twin, and quicker for small groups.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from core.permutations import permutation, sort_keys
from data.order.bucket_rows import BucketRows

_KEPT_BLOCKS = 4
_SMALL = 4096  # samples of a group that are sorted as quickly as a block is cut
_MANY = 16  # groups of a block, from which on it is quicker to permute it once than to cut it for each
_BINS = 9  # bits of a number of bins, in which shards are counted


class _Run(NamedTuple):
    """Samples of a group that are of one epoch, shard by shard.

    shards, counts: (m,) shards, and how many samples each has in the group.  cut: (samples,) bool, whether
    the group has them, of the rows of all these shards one after another; None where it has all.
    """

    epoch: int
    shards: np.ndarray
    counts: np.ndarray
    cut: np.ndarray | None


class Stream:
    """The endless stream of one bucket: the permutation of epoch 0, then of epoch 1, and so on."""

    def __init__(self, bucket: BucketRows, *, number: int, seed: int, block: int) -> None:
        self._bucket, self._number, self._seed, self._block = bucket, number, seed, block
        self.samples = len(bucket)
        self._epoch = -1
        self._shards = self._ends = np.empty(0, np.int64)
        self._shuffled: OrderedDict[tuple[int, int], np.ndarray] = OrderedDict()
        self._cuts: OrderedDict[tuple[int, int, int], np.ndarray] = OrderedDict()

    def take(self, start: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Return rows and epochs of places start to start + count of the stream, both (count,) int64."""
        rows, epochs = [], []
        while count:
            epoch, place = divmod(start, self.samples)
            self._lay_out(epoch)
            block = self._block_at(place)
            first = self._first(block)
            piece = self._rows(epoch, block)[place - first : place - first + count]
            rows.append(piece)
            epochs.append(np.full(len(piece), epoch))
            start, count = start + len(piece), count - len(piece)
        return np.concatenate(rows), np.concatenate(epochs)

    def part(self, start: int, count: int, first: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Return rows and epochs at `first` to `stop` of `count` places from `start` on, by ascending row.

        Both (stop - first,) int64; where epochs have the same row, the earlier one comes first.
        """
        if stop == first:
            return np.empty(0, np.int64), np.empty(0, np.int64)
        self._lay_out(start // self.samples)
        if count <= max(_SMALL, self._size(self._block_at(start % self.samples)) // _MANY):
            rows, epochs = self.take(start, count)
            by_row = np.argsort(rows, kind="stable")[first:stop]
            return rows[by_row], epochs[by_row]
        runs = list(self._runs(start, count))
        entries, before = self._around(runs, first, stop)
        rows, epochs = self._listed(runs, entries)
        by_row = np.argsort(rows, kind="stable")[first - before : stop - before]
        return rows[by_row], epochs[by_row]

    def _around(self, runs: list[_Run], first: int, stop: int) -> tuple[np.ndarray, int]:
        """Return which shards of some runs have the places `first` to `stop` of their samples by ascending
        row: numbers of these shards over all runs, and how many samples come before them.

        Shards are added up in bins of neighbours, and those of few bins sorted: 10,000 take a step 0.1 ms,
        where sorting them all takes 0.3.
        """
        shards = np.concatenate([run.shards for run in runs])
        counts = np.concatenate([run.counts for run in runs])
        bins = shards >> max(0, len(self._bucket.counts).bit_length() - _BINS)
        ends = np.bincount(bins, counts).astype(np.int64).cumsum()
        low, high = np.searchsorted(ends, [first, stop - 1], side="right")
        before = int(ends[low - 1]) if low else 0
        entries = np.flatnonzero((bins >= low) & (bins <= high))
        entries = entries[np.argsort(shards[entries], kind="stable")]
        shards, ends = shards[entries], before + counts[entries].cumsum()
        low, high = np.searchsorted(ends, [first, stop - 1], side="right")
        low = int(np.searchsorted(shards, shards[low], side="left"))
        high = int(np.searchsorted(shards, shards[high], side="right"))
        return entries[low:high], int(ends[low - 1]) if low else before

    def _runs(self, start: int, count: int) -> Iterator[_Run]:
        """Yield what lies from `start` on, in the stream's order: cut blocks, and whole ones together."""
        while count:
            epoch, place = divmod(start, self.samples)
            self._lay_out(epoch)
            stop = min(self.samples, place + count)
            block, last = self._block_at(place), self._block_at(stop - 1)
            start, count = start + stop - place, count - (stop - place)
            if place > self._first(block):
                here = min(stop, int(self._ends[block]))
                yield self._cut_run(epoch, block, place, here)
                block += 1
            whole = last + 1 if stop == self._ends[last] else last
            if block < whole:
                shards = self._shards[block * self._block : whole * self._block]
                yield _Run(epoch, shards, self._bucket.counts[shards], None)
            if whole == last and block <= last:
                yield self._cut_run(epoch, last, self._first(last), stop)

    def _cut_run(self, epoch: int, block: int, place: int, stop: int) -> _Run:
        """Return what lies from `place` to `stop` of the epoch, which is in one block."""
        first = self._first(block)
        cut = self._among_first(epoch, block, stop - first)
        if place > first:
            cut = cut & ~self._among_first(epoch, block, place - first)
        shards = self._shards[block * self._block : (block + 1) * self._block]
        ends = self._bucket.counts[shards].cumsum()[:-1]
        counts = np.array([np.count_nonzero(of_shard) for of_shard in np.split(cut, ends)])
        return _Run(epoch, shards, counts, cut)

    def _among_first(self, epoch: int, block: int, count: int) -> np.ndarray:
        """Return which samples are among the first `count` of a permuted block: (samples of it,) bool."""
        size = self._size(block)
        if count in (0, size):
            return np.full(size, count > 0)
        key = (epoch, block, count)  # where a group ends the next one begins
        if key not in self._cuts:
            keys = sort_keys(self._seed, "samples", (self._number, epoch, block), size)
            self._cuts[key] = among_smallest(keys, count)
            if len(self._cuts) > _KEPT_BLOCKS:
                self._cuts.popitem(last=False)
        return self._cuts[key]

    def _listed(self, runs: list[_Run], entries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return rows and epochs of shards of some runs; entries: numbers of the shards over all runs."""
        starts = np.cumsum([0, *(len(run.shards) for run in runs)])
        rows, epochs = [], []
        for entry in entries.tolist():
            number = int(np.searchsorted(starts, entry, side="right")) - 1
            run, place = runs[number], entry - int(starts[number])
            found = self._bucket.rows(run.shards[place])
            if run.cut is not None:
                before = int(self._bucket.counts[run.shards[:place]].sum())
                found = found[run.cut[before : before + len(found)]]
            rows.append(found)
            epochs.append(np.full(len(found), run.epoch))
        return np.concatenate(rows), np.concatenate(epochs)

    def _lay_out(self, epoch: int) -> None:
        """Permute the shards for `epoch` and note where each block of shards ends in it."""
        if epoch == self._epoch:
            return
        self._shards = permutation(self._seed, "shards", (self._number, epoch), len(self._bucket.counts))
        ends = np.cumsum(self._bucket.counts[self._shards])
        last = np.arange(self._block, len(ends) + self._block, self._block).clip(max=len(ends)) - 1
        self._ends, self._epoch = ends[last], epoch

    def _block_at(self, place: int) -> int:
        """Return the block that has a place of the epoch that is laid out."""
        return int(np.searchsorted(self._ends, place, side="right"))

    def _first(self, block: int) -> int:
        """Return the place where a block of the epoch begins."""
        return int(self._ends[block - 1]) if block else 0

    def _size(self, block: int) -> int:
        """Return the number of samples of a block of the epoch."""
        return int(self._ends[block]) - self._first(block)

    def _rows(self, epoch: int, block: int) -> np.ndarray:
        """Return the rows of one block of shards, shuffled together."""
        key = (epoch, block)
        if key not in self._shuffled:
            shards = self._shards[block * self._block : (block + 1) * self._block]
            rows = np.concatenate([self._bucket.rows(shard) for shard in shards])
            self._shuffled[key] = rows[permutation(self._seed, "samples", (self._number, *key), len(rows))]
            if len(self._shuffled) > _KEPT_BLOCKS:
                self._shuffled.popitem(last=False)
        self._shuffled.move_to_end(key)
        return self._shuffled[key]


def among_smallest(keys: np.ndarray, n: int) -> np.ndarray:
    """Return which of keys (m,) uint64, thought to be uniform, are the n smallest: (m,) bool; of equal ones
    the first.

    The n-th smallest then lies within six standard deviations of n / m of the range, and few keys do, which
    alone are sorted: 0.08 ms for 80,000, a quarter of what it takes to draw them. Sorting all takes 4 ms.
    """
    share, size = n / len(keys), len(keys)
    spread = 6 * math.sqrt(share * (1 - share) / size) + 1 / size
    low, high = (
        np.uint64(min(max(int(edge * 2**64), 0), 2**64 - 1)) for edge in (share - spread, share + spread)
    )
    chosen = keys < low
    near = np.flatnonzero((keys <= high) ^ chosen)
    before = int(np.count_nonzero(chosen))
    if not before <= n <= before + len(near):
        chosen[:], near, before = False, np.arange(size), 0
    chosen[near[np.argsort(keys[near], kind="stable")[: n - before]]] = True
    return chosen
