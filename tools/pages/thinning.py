"""Many points brought to the columns of a chart, so that the extremes stay.

Each column of pixels keeps the least, the mean and the largest of its values: no spike is lost, however many
points share the column.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
COLUMNS = 400  # of a chart: its plot is about as many pixels wide


class Thinned(NamedTuple):
    """Points of a chart, sorted by x.

    x, mean, low, high: of each column (all three are the value where there is one).  counts: how many values
    each column stands for.  lost: x of values that are not finite.
    """

    x: Floats
    mean: Floats
    low: Floats
    high: Floats
    counts: NDArray[np.int64]
    lost: Floats

    @property
    def is_thinned(self) -> bool:
        """Return whether some column stands for several values."""
        return bool((self.counts > 1).any())


def thinned(x: Floats, y: Floats, span: tuple[float, float], columns: int = COLUMNS) -> Thinned:
    """Bring points to at most `columns` columns of equal width over `span`.

    x, y: (N,); points whose x is not finite are left out.  A column's x is the mean of its points'.
    """
    x, y = x[np.isfinite(x)], y[np.isfinite(x)]
    is_finite = np.isfinite(y)
    lost, x, y = x[~is_finite], x[is_finite], y[is_finite]
    order = np.argsort(x, kind="stable")
    x, y = x[order], y[order]
    if len(x) <= columns:
        return Thinned(x, y, y, y, np.ones(len(x), np.int64), lost)
    width = (span[1] - span[0]) or 1.0
    column = np.clip(((x - span[0]) / width * columns).astype(np.int64), 0, columns - 1)
    first = np.flatnonzero(np.diff(column, prepend=-1))
    counts = np.diff(first, append=len(x))
    return Thinned(
        np.add.reduceat(x, first) / counts,
        np.add.reduceat(y, first) / counts,
        np.minimum.reduceat(y, first),
        np.maximum.reduceat(y, first),
        counts,
        lost,
    )
