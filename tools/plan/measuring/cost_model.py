"""Fit what samples cost to measured times, and choose groups of all shapes that take the same time.

A micro-batch of m samples of S tokens takes F + m (c + a S + b S^2): a fixed part for what does not grow with
samples, and a sample's own, which `data.cost_fixed`, `cost_linear` and `cost_quadratic` hold.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

import numpy as np

_TERMS = 4
_EQUAL = 1e-9  # difference of two fits' errors that is rounding


class Point(NamedTuple):
    """The seconds that a micro-batch of so many samples of so many tokens took."""

    samples: int
    tokens: int
    seconds: float


@dataclass(frozen=True)
class CostModel:
    """Seconds of a micro-batch: micro_batch + samples (fixed + linear S + quadratic S^2); none below 0."""

    micro_batch: float
    fixed: float
    linear: float
    quadratic: float

    def seconds(self, samples: int, tokens: int) -> float:
        """Return the predicted seconds of a micro-batch."""
        return self.micro_batch + samples * self.sample(tokens)

    def sample(self, tokens: int) -> float:
        """Return what each further sample adds."""
        return self.fixed + self.linear * tokens + self.quadratic * tokens**2

    def share_seconds(self, share: int, at_once: int, tokens: int) -> float:
        """Return the predicted seconds of a rank's share of a group, cut into micro-batches."""
        whole, rest = divmod(share, at_once)
        return whole * self.seconds(at_once, tokens) + (self.seconds(rest, tokens) if rest else 0.0)


def fit(points: Sequence[Point]) -> CostModel:
    """Fit non-negative terms with the least relative error (each point counts alike, whatever it takes).

    Every subset of the four terms is solved by least squares, and the best without a negative one taken; of
    equal ones, the one with fewer terms, and the linear term first. So fewer than three lengths, which leave
    some terms undetermined, are still met exactly.
    """
    samples, tokens, seconds = (np.array(column, np.float64) for column in zip(*points, strict=True))
    rows = np.stack([samples * tokens, np.ones_like(samples), samples, samples * tokens**2], 1)
    rows /= seconds[:, None]
    scales = np.abs(rows).max(0)
    best, error = np.zeros(_TERMS), math.inf
    for count in range(1, _TERMS + 1):
        for chosen in map(list, combinations(range(_TERMS), count)):
            found = np.linalg.lstsq(rows[:, chosen] / scales[chosen], np.ones_like(samples), rcond=None)[0]
            if (found < 0).any():
                continue
            terms = np.zeros(_TERMS)
            terms[chosen] = found / scales[chosen]
            missed = float(np.linalg.norm(rows @ terms - 1))
            if missed < error - _EQUAL:
                best, error = terms, missed
    linear, micro_batch, fixed, quadratic = best.tolist()
    return CostModel(micro_batch, fixed, linear, quadratic)


def error_of(model: CostModel, points: Sequence[Point]) -> float:
    """Return the largest relative error of the model at measured points."""
    return max(abs(model.seconds(p.samples, p.tokens) / p.seconds - 1) for p in points)
