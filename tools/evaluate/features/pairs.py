"""Squared distances of all pairs of two sets of features, block by block."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Features = NDArray[np.float32]
ROWS = 256  # of a block of distances: 0.1 GB of them beside 50,000 features


def squared_distances(a: Features, b: Features) -> Iterator[tuple[slice, NDArray[np.float64]]]:
    """Yield rows of `a` (n, d) and their squared distances to all of `b` (m, d)."""
    square_b = np.square(b, dtype=np.float64).sum(1)
    wide_b = b.astype(np.float64)
    for start in range(0, len(a), ROWS):
        rows = slice(start, start + ROWS)
        part = a[rows].astype(np.float64)
        squared = np.square(part).sum(1)[:, None] + square_b - 2 * part @ wide_b.T
        yield rows, squared.clip(0)


def rounded_distances(a: Features, b: Features) -> Iterator[tuple[slice, NDArray[np.float32]]]:
    """Yield the same in float32."""
    for rows, squared in squared_distances(a, b):
        yield rows, squared.astype(np.float32)
