"""The endless stream of one bucket's samples: a permutation for each epoch, made shard by shard.

A group is a range of the stream with its rows sorted, and a rank takes a slice of these. `Stream.part` finds
the slice without making the group: blocks of shards that lie wholly within it need no permutation, since
their rows are sorted anyhow, and of the at most two blocks that it cuts, only which samples come before the
cut matters. The cost is O(shards of the group + samples of a block) for any number of ranks; shards are
counted and not read. `take` is its plain twin, and faster for small groups.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator
from itertools import accumulate
from typing import NamedTuple

import numpy as np

from core.permutations import permutation
from data.order.bucket_rows import BucketRows
from data.order.cuts import Cut, Cuts

_KEPT_BLOCKS = 4
_SMALL = 4096  # samples of a group that are sorted as quickly as a block is cut
_MANY = 16  # groups of a block, from which on it is quicker to permute it once than to cut it for each
_BINS = 9  # bits of a number of bins, in which shards are counted
_FEW_SHARDS = 1024  # of a group, which are sorted as quickly as counted in bins


class _Run(NamedTuple):
    """Samples of a group that are of one epoch, shard by shard.

    shards, counts: (m,) shards, and how many samples each has in the group.  since, until: where the group
    begins and ends in these shards, if they are a block that it cuts; None where it has all from the first
    on, or up to the last.
    """

    epoch: int
    shards: np.ndarray
    counts: np.ndarray
    since: Cut | None = None
    until: Cut | None = None

    def is_in(self, start: int, stop: int) -> np.ndarray:
        """Return whether the group has the samples `start` to `stop` of the block that it cuts, (n,) bool."""
        whole = np.ones(stop - start, bool)
        until = whole if self.until is None else self.until.is_before[start:stop]
        return until if self.since is None else until & ~self.since.is_before[start:stop]


class Stream:
    """The endless stream of one bucket: the permutation of epoch 0, then of epoch 1, and so on."""

    def __init__(self, bucket: BucketRows, *, number: int, seed: int, block: int) -> None:
        self._bucket, self._number, self._seed, self._block = bucket, number, seed, block
        self.samples = len(bucket)
        self._epoch = -1
        self._shards = self._ends = np.empty(0, np.int64)
        self._shuffled: OrderedDict[tuple[int, int], np.ndarray] = OrderedDict()
        self._cuts = Cuts(number=number, seed=seed)

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
            return _by_row(rows, epochs, first, stop)
        runs = list(self._runs(start, count))
        return self._listed(runs, *self._around(runs, first, stop), first, stop)

    def _around(self, runs: list[_Run], first: int, stop: int) -> tuple[np.ndarray, int]:
        """Return which shards of some runs have the places `first` to `stop` of their samples by ascending
        row: numbers of these shards over all runs, and how many samples come before them.

        Where they are many, they are added up in bins of neighbours, and those of few bins sorted: 10,000
        take a step 0.1 ms, where sorting them all takes 0.3.
        """
        shards = np.concatenate([run.shards for run in runs])
        counts = np.concatenate([run.counts for run in runs])
        entries, before = np.arange(len(shards)), 0
        if len(shards) > _FEW_SHARDS:
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
                yield _Run(epoch, shards, self._bucket.counts[shards])
            if whole == last and block <= last:
                yield self._cut_run(epoch, last, self._first(last), stop)

    def _cut_run(self, epoch: int, block: int, place: int, stop: int) -> _Run:
        """Return what lies from `place` to `stop` of the epoch, which is in one block."""
        first, size = self._first(block), self._size(block)
        shards = self._shards[block * self._block : (block + 1) * self._block]
        sizes, since, until = self._bucket.counts[shards], None, None
        counts = sizes
        if stop - first < size:
            until = self._cuts.at(epoch, block, sizes, stop - first)
            counts = until.counts
        if place > first:
            since = self._cuts.at(epoch, block, sizes, place - first)
            counts = counts - since.counts
        return _Run(epoch, shards, counts, since, until)

    def _listed(
        self, runs: list[_Run], entries: np.ndarray, before: int, first: int, stop: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return rows and epochs at `first` to `stop` of a group, which lie in some of its shards.

        entries, before: as `_around` gives them, so shards ascend, and where the group is of one epoch each
        is there once.
        """
        starts = list(accumulate((len(run.shards) for run in runs), initial=0))
        is_of_one = runs[0].epoch == runs[-1].epoch
        rows, epochs, place = [], [], before
        for entry in entries.tolist():
            number = bisect_right(starts, entry) - 1
            found = self._in_group(runs[number], entry - starts[number])
            if is_of_one:
                found, place = found[max(0, first - place) : stop - place], place + len(found)
            rows.append(found)
            epochs.append(np.full(len(found), runs[number].epoch))
        if is_of_one:
            return np.concatenate(rows), np.concatenate(epochs)
        by_row = np.argsort(np.concatenate(rows), kind="stable")[first - before : stop - before]
        return np.concatenate(rows)[by_row], np.concatenate(epochs)[by_row]

    def _in_group(self, run: _Run, place: int) -> np.ndarray:
        """Return the rows of a run's shard that the group has, (counts[place],) int64, ascending."""
        rows = self._bucket.rows(run.shards[place])
        if not (run.since or run.until):
            return rows
        start = int(self._bucket.counts[run.shards[:place]].sum())
        return rows[np.flatnonzero(run.is_in(start, start + len(rows)))]  # a mask takes seven times as long

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


def _by_row(rows: np.ndarray, epochs: np.ndarray, first: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the places `first` to `stop` of rows and their epochs by ascending row, of equal ones as given.

    first < stop.  epochs: ascending; rows of one epoch are all different, and only those in these places are
    sorted: of 16,384 rows 256 take 0.04 ms, and all 0.44.
    """
    if epochs[0] == epochs[-1]:
        return np.sort(np.partition(rows, (first, stop - 1))[first:stop]), epochs[first:stop]
    by_row = np.argsort(rows, kind="stable")[first:stop]
    return rows[by_row], epochs[by_row]
