"""The interval of a Fréchet distance, and its value extrapolated to infinitely many samples.

A plain bootstrap draws samples twice, which enlarges the distance, so its interval leaves out its own point.
Leaving blocks out does not.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tools.evaluate.measures import subset
from tools.evaluate.moments import Moments, Reference

BLOCKS = 10
STUDENT = 2.262  # 97.5 % quantile of Student's t with BLOCKS - 1 degrees of freedom
SIZES = 8  # of random subsets from which the distance is extrapolated
LEAST = 20 * BLOCKS  # samples


def distance_interval(features: NDArray[np.floating], reference: Reference, seed: int) -> float:
    """Return the half width of a 95 % interval of the Fréchet distance of so many samples.

    The delete-d jackknife (Shao and Wu 1989): samples in random order are cut into 10 blocks, and the
    distance is computed without each; its variance is 9/10 of the sum of squares about their mean.
    """
    order = subset(len(features), len(features), (), seed, "jackknife")
    parts = []
    for rows in np.array_split(order, BLOCKS):
        moments = Moments.empty(features.shape[1])
        moments.add(features[rows])
        parts.append(moments)
    found = []
    for left_out in range(BLOCKS):
        rest = Moments.empty(features.shape[1])
        for number, part in enumerate(parts):
            if number != left_out:
                rest = rest.merged(part)
        found.append(reference.distance(rest))
    variance = (BLOCKS - 1) / BLOCKS * np.square(np.array(found) - np.mean(found)).sum()
    return float(STUDENT * np.sqrt(variance))


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
