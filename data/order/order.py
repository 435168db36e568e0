"""Order is arithmetic: which samples make up a step, a pure function of (index, config, seed, step_index).

A worked example: two buckets, images and clips, with groups of n = 64 and 8 samples and shares 2 : 1, two
groups a step. The periodic table is [image, clip, image]. The sixth step, index 5, takes groups 10 and 11
of the run. Group 10 is slot 1 of period 3: a clip group, after 3 periods with one clip group each, so the 4th
of its bucket: places 24 to 31 of the clips' endless stream. With 20 clips that is epoch 1, places 4 to 11 of
its permutation. Nothing was replayed, no rank or micro-batch was mentioned; a rank takes its slice of the 8
rows (`data.loading.loader`).

Each epoch of a bucket permutes its shards, then shuffles the samples of `block` neighbouring shards
together, so reading stays nearly sequential on a parallel file system. A group's rows are sorted: the order
inside a group means nothing to training, and each rank so reads few shards, forwards.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from core.draws import permutation
from core.errors import WorkError

_KEPT_BLOCKS = 4


@dataclass(frozen=True)
class Group:
    """n_b samples of one bucket, the unit that all ranks share.

    bucket: number of the stream.  rows: (n_b,) int64 in the dataset's index, ascending.  epochs: (n_b,)
    int64.
    offset: place of the first sample in the optimizer step.
    """

    bucket: int
    rows: np.ndarray
    epochs: np.ndarray
    offset: int


class Column(Protocol):
    """Numbers of all rows of a dataset, (rows,): an array, or a mapped column that is read where used."""

    def __getitem__(self, rows: slice) -> np.ndarray: ...

    def __array__(self) -> np.ndarray: ...


class BucketRows:
    """The rows of one bucket, found shard by shard when asked for.

    bucket_of_row: (rows,) bucket numbers of all rows of the dataset, in row order.
    shard_starts: (shards + 1,) first row of each shard.  counts: (shards,) rows of this bucket in each shard.
    """

    def __init__(
        self, bucket_of_row: Column, shard_starts: np.ndarray, bucket: int, counts: np.ndarray
    ) -> None:
        self._bucket_of_row, self._starts, self._bucket = bucket_of_row, shard_starts, bucket
        self._shards = np.flatnonzero(counts)
        self.counts = np.asarray(counts, np.int64)[self._shards]

    def __len__(self) -> int:
        return int(self.counts.sum())

    def rows(self, shard: int) -> np.ndarray:
        """The rows in the shard-th shard that has any, (counts[shard],) int64."""
        start, stop = self._starts[self._shards[shard]], self._starts[self._shards[shard] + 1]
        found = np.flatnonzero(self._bucket_of_row[start:stop] == self._bucket)
        if len(found) != self.counts[shard]:  # the stream would look for the rest without end
            raise WorkError(
                f"rows {start} to {stop - 1} of the index: {len(found)} samples of bucket {self._bucket}, "
                f"not {self.counts[shard]} as was counted: the index or the counts are damaged"
            )
        return start + found


def count_buckets(column: Column, shard_starts: np.ndarray, buckets: int) -> np.ndarray:
    """(shards, buckets) int64 rows of each bucket in each shard; one pass over all rows."""
    bucket_of_row = np.asarray(column)
    shard = np.repeat(np.arange(len(shard_starts) - 1), np.diff(shard_starts))
    kept = bucket_of_row < buckets
    flat = np.bincount(
        shard[kept] * buckets + bucket_of_row[kept], minlength=(len(shard_starts) - 1) * buckets
    )
    return flat.reshape(-1, buckets)


class Stream:
    """The endless stream of one bucket: the permutation of epoch 0, then of epoch 1, and so on."""

    def __init__(self, bucket: BucketRows, *, number: int, seed: int, block: int) -> None:
        self._bucket, self._number, self._seed, self._block = bucket, number, seed, block
        self.samples = len(bucket)
        self._epoch = -1
        self._shards = self._ends = np.empty(0, np.int64)
        self._shuffled: OrderedDict[tuple[int, int], np.ndarray] = OrderedDict()

    def take(self, start: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Places start to start + count of the stream: their rows and epochs, both (count,) int64."""
        rows, epochs = [], []
        while count:
            epoch, place = divmod(start, self.samples)
            self._lay_out(epoch)
            block = int(np.searchsorted(self._ends, place, side="right"))
            first = int(self._ends[block - 1]) if block else 0
            piece = self._rows(epoch, block)[place - first : place - first + count]
            rows.append(piece)
            epochs.append(np.full(len(piece), epoch))
            start, count = start + len(piece), count - len(piece)
        return np.concatenate(rows), np.concatenate(epochs)

    def _lay_out(self, epoch: int) -> None:
        """Permute the shards for `epoch` and note where each block of shards ends in it."""
        if epoch == self._epoch:
            return
        self._shards = permutation(self._seed, "shards", (self._number, epoch), len(self._bucket.counts))
        ends = np.cumsum(self._bucket.counts[self._shards])
        last = np.arange(self._block, len(ends) + self._block, self._block).clip(max=len(ends)) - 1
        self._ends, self._epoch = ends[last], epoch

    def _rows(self, epoch: int, block: int) -> np.ndarray:
        """The rows of one block of shards, shuffled together."""
        key = (epoch, block)
        if key not in self._shuffled:
            shards = self._shards[block * self._block : (block + 1) * self._block]
            rows = np.concatenate([self._bucket.rows(shard) for shard in shards])
            self._shuffled[key] = rows[permutation(self._seed, "samples", (self._number, *key), len(rows))]
            if len(self._shuffled) > _KEPT_BLOCKS:
                self._shuffled.popitem(last=False)
        self._shuffled.move_to_end(key)
        return self._shuffled[key]


class Order:
    """The groups of every optimizer step.

    buckets: rows of each bucket; they may come from several datasets.  group_sizes: n_b of each.
    weights: share of the groups each bucket gets (any scale; 0 leaves it out).
    block: shards shuffled together.
    """

    def __init__(
        self,
        buckets: Sequence[BucketRows],
        group_sizes: Sequence[int],
        weights: Sequence[float],
        *,
        seed: int,
        groups_per_step: int = 1,
        block: int = 8,
    ) -> None:
        self.group_sizes, self.groups_per_step = tuple(group_sizes), groups_per_step
        self._streams = [Stream(b, number=i, seed=seed, block=block) for i, b in enumerate(buckets)]
        self.table = periodic_table(
            [w if stream.samples else 0 for w, stream in zip(weights, self._streams, strict=True)]
        )
        taken = np.eye(len(buckets), dtype=np.int64)[self.table]
        self._before = np.concatenate([np.zeros((1, len(buckets)), np.int64), taken.cumsum(0)])

    def step(self, step_index: int) -> list[Group]:
        """The groups of step `step_index`; costs O(shards), whatever the index is."""
        groups, offset = [], 0
        for number in range(step_index * self.groups_per_step, (step_index + 1) * self.groups_per_step):
            bucket, ordinal = self._locate(number)
            size = self.group_sizes[bucket]
            rows, epochs = self._streams[bucket].take(ordinal * size, size)
            by_row = np.argsort(rows, kind="stable")
            groups.append(Group(bucket, rows[by_row], epochs[by_row], offset))
            offset += size
        return groups

    def first(self, bucket: int) -> np.ndarray:
        """(n_b,) int64 rows of the bucket's first group."""
        return self._streams[bucket].take(0, self.group_sizes[bucket])[0]

    def _locate(self, number: int) -> tuple[int, int]:
        """The bucket of the run's group `number`, and how many groups of that bucket came before it."""
        period, slot = divmod(number, len(self.table))
        bucket = int(self.table[slot])
        return bucket, int(period * self._before[-1, bucket] + self._before[slot, bucket])


def periodic_table(weights: Sequence[float], slots: int = 1024) -> np.ndarray:
    """Which bucket each group of a period belongs to, (period,) int64, every bucket spread evenly.

    The shortest period of up to `slots` groups that gives the shares exactly; where there is none, `slots`
    groups with shares exact to one of them (largest remainder). A bucket with any weight gets one at least.
    """
    shares = np.asarray(weights, np.float64)
    if not (np.isfinite(shares).all() and (shares >= 0).all() and shares.any()):
        raise ValueError(f"weights {list(weights)} must be finite, not negative, and not all zero")
    shares = shares / shares.sum()
    counts = _counts(shares, max(slots, 16 * int((shares > 0).sum())))
    bucket = np.repeat(np.arange(len(counts)), counts)
    place = np.concatenate([(np.arange(count) + 0.5) / count for count in counts if count])
    return bucket[np.argsort(place, kind="stable")]


def _counts(shares: np.ndarray, slots: int) -> np.ndarray:
    """(buckets,) int64 groups of each bucket in a period."""
    periods = np.arange(1, slots + 1)[:, None] * shares
    whole = (np.abs(periods - periods.round()) < 1e-9) & ((periods > 0.5) | (shares == 0))
    exact = np.flatnonzero(whole.all(1))
    if len(exact):
        return periods[exact[0]].round().astype(np.int64)
    counts = np.maximum(np.floor(shares * slots).astype(np.int64), shares > 0)
    missing = max(slots - int(counts.sum()), 0)
    counts[np.argsort(counts - shares * slots, kind="stable")[:missing]] += 1
    return counts
