"""Choose the rows of a latent cache to measure, and divide them into batches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from core.permutations import permutation

if TYPE_CHECKING:
    from data.dataset.index import Dataset

Rows = NDArray[np.int64]


def some_rows(cache: Dataset, count: int, seed: int, purpose: str) -> Rows:
    """Return `count` rows of the cache that have latents, in random order; all of them for 0, or if fewer."""
    there = np.flatnonzero(cache.index["size"] > 0)
    return there[permutation(seed, purpose, (), len(there))[: count or len(there)]]


def batches(cache: Dataset, rows: Rows, size: int) -> Iterator[Rows]:
    """Yield rows of one shape, at most `size` at once."""
    buckets = np.asarray(cache.index["bucket"])[rows]
    for bucket in np.unique(buckets):
        some = rows[buckets == bucket]
        for start in range(0, len(some), size):
            yield some[start : start + size]
