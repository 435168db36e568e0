"""Intervals of scores that are no means, and a Fréchet distance extrapolated to infinitely many samples.

A plain bootstrap draws samples twice, which enlarges a distance and hides neighbours, so its interval leaves
out its own point. Leaving blocks out does not. An interval is that of the score's expectation at so many
generated samples when these are drawn again; the real ones stay.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tools.evaluate.measures import subset
from tools.evaluate.moments import Moments, Reference

BLOCKS = 10
STUDENT = 2.262  # 97.5 % quantile of Student's t with BLOCKS - 1 degrees of freedom
SIZES = 8  # of random subsets from which the distance is extrapolated
LEAST = 20 * BLOCKS  # samples


def blocks_of(count: int, seed: int) -> NDArray[np.int64]:
    """Return the block (count,) of each of so many samples, 0 to 9: at random, in equal parts or nearly."""
    block = np.empty(count, np.int64)
    for number, rows in enumerate(np.array_split(subset(count, count, (), seed, "jackknife"), BLOCKS)):
        block[rows] = number
    return block


def half_width(without: Sequence[float] | NDArray[np.floating]) -> float:
    """Return half the width of a 95 % interval of a score, from its values without each of the blocks.

    The delete-d jackknife (Shao and Wu 1989): the variance is 9/10 of the sum of squares about their mean.
    """
    found = np.array(without, np.float64)
    return float(STUDENT * np.sqrt((BLOCKS - 1) / BLOCKS * np.square(found - found.mean()).sum()))


def mean_interval(values: NDArray[np.floating] | NDArray[np.bool_], seed: int) -> float:
    """Return the half width of a 95 % interval of the mean of values (n,), one of each sample."""
    return half_width(means_without(values, blocks_of(len(values), seed)))


def means_without(
    values: NDArray[np.floating] | NDArray[np.bool_], block: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return the mean (10,) of values (n,) without those of each block.  block: of each value."""
    return np.array([values[block != left_out].mean() for left_out in range(BLOCKS)], np.float64)


def distance_interval(features: NDArray[np.floating], reference: Reference, seed: int) -> float:
    """Return the half width of a 95 % interval of the Fréchet distance of so many samples."""
    block = blocks_of(len(features), seed)
    parts = []
    for number in range(BLOCKS):
        moments = Moments.empty(features.shape[1])
        moments.add(features[block == number])
        parts.append(moments)
    found = []
    for left_out in range(BLOCKS):
        rest = Moments.empty(features.shape[1])
        for number, part in enumerate(parts):
            if number != left_out:
                rest = rest.merged(part)
        found.append(reference.distance(rest))
    return half_width(found)


def without_bias(features: NDArray[np.floating], reference: Reference, seed: int) -> float:
    """Return the distance extrapolated to infinitely many samples (Chong and Forsyth 2020).

    Its bias falls as 1 / N: distances of random subsets, from a half of the samples to all, are fitted by a
    straight line in 1 / N, whose value at 0 is returned. The reference keeps its own bias.
    """
    sizes = np.linspace(len(features) // 2, len(features), SIZES).astype(int)
    found = []
    for number, size in enumerate(sizes):
        moments = Moments.empty(features.shape[1])
        moments.add(features[subset(len(features), int(size), (number,), seed, "extrapolation")])
        found.append(reference.distance(moments))
    _, intercept = np.polyfit(1 / sizes, found, 1)
    return float(intercept)
