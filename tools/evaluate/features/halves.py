"""Intervals of scores for which several generated samples count together, such as recall and coverage.

Whether a real sample is near a generated one depends on several of these at once, so that a score without
some of them does not say how much it would vary: the jackknife's intervals were 1.3 to 1.7 times as wide as
asked for. Two halves of the samples are apart, hence half the squared difference of their scores has the
expectation of the variance of half as many, whatever the score. Beside half as many real ones all
neighbourhoods have twice the volume and look alike otherwise, so that this variance is twice the one of all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from tools.evaluate.measures import subset

SPLITS = 16
STUDENT = 2.131  # 97.5 % quantile of Student's t with 15 degrees of freedom: deviations so found vary by 0.18

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Halves:
    """Which half each sample is in, split by split: generated (SPLITS, n), real (SPLITS, m)."""

    generated: Bools
    real: Bools

    @classmethod
    def of(cls, generated: int, real: int, seed: int) -> Self:
        """Split so many samples at random, the same way on every machine."""
        return cls(_splits(generated, seed, "generated halves"), _splits(real, seed, "real halves apart"))

    def some(self, generated: NDArray[np.int64], real: NDArray[np.int64]) -> Halves:
        """Return the halves of these rows."""
        return Halves(self.generated[:, generated], self.real[:, real])

    def apart(self, seen: Bools) -> Floats:
        """Return by how much shares differ, (SPLITS, 2): in each half of the real samples.

        seen: (SPLITS, 2, m), of a real sample whether it counts beside either half of the generated ones.
        """
        differences = seen[:, 1].astype(np.float64) - seen[:, 0]
        return np.stack(
            [(differences * half).sum(1) / half.sum(1) for half in (self.real, ~self.real)], axis=1
        )


def width_by_halves(apart: Floats, count: int) -> float:
    """Return half the width of a 95 % interval of a score, from differences of its halves (splits, 2).

    count: of real samples; a share of so many moves in steps, of which half a one is added.
    """
    return float(STUDENT * np.sqrt(np.square(apart).mean() / 2 / 2) + 0.5 / count)


def _splits(count: int, seed: int, purpose: str) -> Bools:
    found = np.zeros((SPLITS, count), bool)
    for number, row in enumerate(found):
        row[subset(count, count // 2, (number,), seed, purpose)] = True
    return found
