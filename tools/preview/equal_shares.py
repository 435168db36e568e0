"""Assign previews to ranks: each makes as many batches of the same shapes, padded where needed.

Ranks may meet in each forward pass (ZeRO-3), so one with fewer of them would leave the others waiting.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Share:
    """A batch of one rank.  samples: their numbers.  own: how many of them, from the first on, are kept."""

    samples: NDArray[np.int64]
    own: int


def shares(
    order: NDArray[np.int64], stretches: Sequence[range], batch: int, rank: int, ranks: int
) -> Iterator[Share]:
    """Yield a rank's batches: equally many, and equally large, on every rank.

    order: numbers of the samples.  stretches: ranges of it, each of samples that are made together.
    """
    for stretch in stretches:
        each = -(-len(stretch) // ranks)
        mine = order[stretch.start : stretch.stop][rank * each : (rank + 1) * each]
        size = min(batch, each)
        for start in range(0, each, size):
            own = mine[start : start + size]
            filler = np.full(size - len(own), order[stretch.start], np.int64)
            yield Share(np.concatenate([own, filler]), len(own))
