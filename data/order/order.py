"""Order is arithmetic: which samples make up a step, a pure function of (index, config, seed, step_index).

A worked example: two buckets, images and clips, with groups of n = 64 and 8 samples and shares 2 : 1, two
groups a step. The periodic table is [image, clip, image]. The sixth step, index 5, takes groups 10 and 11
of the run. Group 10 is slot 1 of period 3: a clip group, after 3 periods with one clip group each, so the 4th
of its bucket: places 24 to 31 of the clips' endless stream. With 20 clips that is epoch 1, places 4 to 11 of
its permutation. Nothing was replayed, no rank or micro-batch was mentioned; a rank takes its slice of the 8
rows (`data.loading.loader`).

Each epoch of a bucket permutes its shards, then shuffles the samples of `block` neighbouring shards
together, so reading stays nearly sequential on a parallel file system. A group's rows are sorted: the order
inside a group means nothing to training, and each rank so reads few shards, forwards. Where a group is as
large as a block, which it then takes whole, pieces of large shards stand for shards: a rank reads as few of
them, and finds its rows sooner, since the two blocks that a group cuts are small.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from data.order.bucket_rows import BucketRows
from data.order.stream import Stream


@dataclass(frozen=True)
class Group:
    """n_b samples of one bucket, the unit that all ranks share; or a rank's part of them.

    bucket: number of the stream.  rows: (n,) int64 in the dataset's index, ascending.  epochs: (n,) int64.
    offset: place of the first sample in the optimizer step.
    """

    bucket: int
    rows: np.ndarray
    epochs: np.ndarray
    offset: int


class Order:
    """The groups of every optimizer step.

    buckets: rows of each bucket; they may come from several datasets.  group_sizes: n_b of each.
    weights: share of the groups each bucket gets (any scale; 0 leaves it out).
    block: shards shuffled together.  piece: most samples of a shard where a group is as large as a block is
    on average; larger shards are cut in pieces, which stand for them. 0 leaves shards whole.
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
        piece: int = 0,
    ) -> None:
        self.group_sizes, self.groups_per_step = tuple(group_sizes), groups_per_step
        parts = [
            bucket.in_pieces(piece) if piece and size * len(bucket.counts) >= block * len(bucket) else bucket
            for bucket, size in zip(buckets, group_sizes, strict=True)
        ]
        self._streams = [Stream(b, number=i, seed=seed, block=block) for i, b in enumerate(parts)]
        self.table = periodic_table(
            [w if stream.samples else 0 for w, stream in zip(weights, self._streams, strict=True)]
        )
        taken = np.eye(len(buckets), dtype=np.int64)[self.table]
        self._before = np.concatenate([np.zeros((1, len(buckets)), np.int64), taken.cumsum(0)])

    def step(self, step_index: int) -> list[Group]:
        """Return the groups of step `step_index`, whole: the plain twin of `part`, O(samples of the step)."""
        groups = []
        for bucket, start, offset in self._places(step_index):
            rows, epochs = self._streams[bucket].take(start, self.group_sizes[bucket])
            by_row = np.argsort(rows, kind="stable")
            groups.append(Group(bucket, rows[by_row], epochs[by_row], offset))
        return groups

    def part(self, step_index: int, part: int, parts: int) -> list[Group]:
        """Return of every group of step `step_index` the `part`-th of `parts` equal parts, offset included.

        It costs O(shards of the step + samples of a part and of two blocks), whatever the index is.
        """
        groups = []
        for bucket, start, offset in self._places(step_index):
            size = self.group_sizes[bucket]
            first, stop = part * (size // parts), (part + 1) * (size // parts)
            rows, epochs = self._streams[bucket].part(start, size, first, stop)
            groups.append(Group(bucket, rows, epochs, offset + first))
        return groups

    def first(self, bucket: int) -> np.ndarray:
        """Return the rows of the bucket's first group, (n_b,) int64."""
        return self._streams[bucket].take(0, self.group_sizes[bucket])[0]

    def _places(self, step_index: int) -> Iterator[tuple[int, int, int]]:
        """Yield of each group of a step its bucket, where it begins in the stream, and where in the step."""
        offset = 0
        for number in range(step_index * self.groups_per_step, (step_index + 1) * self.groups_per_step):
            bucket, ordinal = self._locate(number)
            yield bucket, ordinal * self.group_sizes[bucket], offset
            offset += self.group_sizes[bucket]

    def _locate(self, number: int) -> tuple[int, int]:
        """Return the bucket of the run's group `number` and the number of its groups before that one."""
        period, slot = divmod(number, len(self.table))
        bucket = int(self.table[slot])
        return bucket, int(period * self._before[-1, bucket] + self._before[slot, bucket])


def periodic_table(weights: Sequence[float], slots: int = 1024) -> np.ndarray:
    """Return the bucket of each group of a period, (period,) int64, every bucket spread evenly.

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
    """Return the number of groups of each bucket in a period, (buckets,) int64."""
    periods = np.arange(1, slots + 1)[:, None] * shares
    whole = (np.abs(periods - periods.round()) < 1e-9) & ((periods > 0.5) | (shares == 0))
    exact = np.flatnonzero(whole.all(1))
    if len(exact):
        return periods[exact[0]].round().astype(np.int64)
    counts = np.maximum(np.floor(shares * slots).astype(np.int64), shares > 0)
    missing = max(slots - int(counts.sum()), 0)
    counts[np.argsort(counts - shares * slots, kind="stable")[:missing]] += 1
    return counts
