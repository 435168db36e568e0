"""The rows of one bucket of a dataset, shard by shard or piece by piece, and how many each of these has."""

from __future__ import annotations

from copy import copy
from typing import Protocol

import numpy as np

from core.errors import WorkError


class Column(Protocol):
    """Numbers of all rows of a dataset, (rows,): an array, or a mapped column that is read where used."""

    def __getitem__(self, rows: slice) -> np.ndarray: ...

    def __array__(self) -> np.ndarray: ...


class BucketRows:
    """The rows of one bucket, found shard by shard when asked for.

    bucket_of_row: (rows,) bucket numbers of all rows of the dataset, in row order.
    shard_starts: (shards + 1,) first row of each shard.  counts: (shards,) rows of this bucket in each shard;
    the attribute is of those that have any, or of their pieces.
    """

    def __init__(
        self, bucket_of_row: Column, shard_starts: np.ndarray, bucket: int, counts: np.ndarray
    ) -> None:
        self._bucket_of_row, self._starts, self._bucket = bucket_of_row, shard_starts, bucket
        self._shards = np.flatnonzero(counts)
        self.counts = self._whole = np.asarray(counts, np.int64)[self._shards]
        self._pieces: np.ndarray | None = None  # (shards + 1,) pieces that lie in shards before each, if cut

    def __len__(self) -> int:
        return int(self._whole.sum())

    def in_pieces(self, most: int) -> BucketRows:
        """Return the same rows, those of a shard that has more than `most` cut in equal pieces of at most so
        many, which stand for shards.
        """
        if self._whole.max(initial=0) <= most:
            return self
        cut, pieces = copy(self), -(-self._whole // most)
        cut._pieces = np.concatenate([[0], pieces.cumsum()])
        shard = np.repeat(np.arange(len(pieces)), pieces)
        number, size, count = np.arange(len(shard)) - cut._pieces[shard], self._whole[shard], pieces[shard]
        cut.counts = ((number + 1) * size // count - number * size // count).astype(np.int32)
        return cut

    def rows(self, shard: int) -> np.ndarray:
        """Return the rows in the shard-th shard that has any, or piece, (counts[shard],) int64."""
        shard, first, last = self._place(shard)
        start, stop = self._starts[self._shards[shard]], self._starts[self._shards[shard] + 1]
        if self._whole[shard] == stop - start:  # all rows of the shard are ours
            ours = np.asarray(self._bucket_of_row[start + first : start + last]) == self._bucket
            if np.count_nonzero(ours) == last - first:
                return np.arange(start + first, start + last)
        found = np.flatnonzero(self._bucket_of_row[start:stop] == self._bucket)
        if len(found) != self._whole[shard]:  # the stream would look for the rest without end
            raise WorkError(
                f"rows {start} to {stop - 1} of the index: {len(found)} samples of bucket {self._bucket}, "
                f"not {self._whole[shard]} as was counted: the index or the counts are damaged"
            )
        return start + found[first:last]

    def _place(self, shard: int) -> tuple[int, int, int]:
        """Return the shard in which a piece lies, and where it begins and ends among our rows of it."""
        if self._pieces is None:
            return shard, 0, int(self._whole[shard])
        whole = int(np.searchsorted(self._pieces, shard, side="right")) - 1
        number, size = int(shard - self._pieces[whole]), int(self._whole[whole])
        count = int(self._pieces[whole + 1] - self._pieces[whole])
        return whole, number * size // count, (number + 1) * size // count


def count_buckets(column: Column, shard_starts: np.ndarray, buckets: int) -> np.ndarray:
    """Count the rows of each bucket in each shard, (shards, buckets) int64; one pass over all rows."""
    bucket_of_row = np.asarray(column)
    shard = np.repeat(np.arange(len(shard_starts) - 1), np.diff(shard_starts))
    kept = bucket_of_row < buckets
    flat = np.bincount(
        shard[kept] * buckets + bucket_of_row[kept], minlength=(len(shard_starts) - 1) * buckets
    )
    return flat.reshape(-1, buckets)
