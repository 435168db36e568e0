"""Intervals of what follows from a fitted law, and the best split of a budget by it.

The interval of a quantity is its value +- t s, where s is its standard error by linearisation at the fit and
t the quantile of Student's distribution with n - 5 degrees of freedom: a studentised interval. Percentiles of
a residual bootstrap are not taken: they do not know that 5 parameters were fitted to the residuals, and of
few runs cover the truth too rarely (docs/sweeps.md).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tools.sweep.law import Law

Array = NDArray[np.float64]
LEVEL = 0.9


class Interval(NamedTuple):
    """A value with the ends of its interval."""

    value: float
    low: float
    high: float


class Cost(NamedTuple):
    """FLOPs of training on a sample as a power of N: scale * N^exponent.

    Of one family of networks at one shape of latents this is nearly exact; 6 N per token in Hoffmann et al.
    """

    scale: float
    exponent: float

    @classmethod
    def of(cls, N: Array, flops_per_sample: Array) -> Cost:
        """Fit the power by least squares of logarithms."""
        log_N, log_f = np.log(N), np.log(flops_per_sample)
        middle = log_N - log_N.mean()
        exponent = float(middle @ log_f / (middle @ middle))
        return cls(float(np.exp(log_f.mean() - exponent * log_N.mean())), exponent)


def best_size(law: Law, cost: Cost, budget: float) -> float:
    """Return ln N of the smallest loss at a budget: the root of d/dN of the law with D = budget / cost(N)."""
    a, b, gamma = law.a, law.b, cost.exponent
    log_A, log_B = np.log(law.A), np.log(law.B)
    constant = np.log(a) + log_A - np.log(gamma * b) - log_B
    return float((constant + b * np.log(budget / cost.scale)) / (a + gamma * b))


def best_samples(law: Law, cost: Cost, budget: float) -> float:
    """Return ln D of the smallest loss at a budget."""
    return float(np.log(budget / cost.scale) - cost.exponent * best_size(law, cost, budget))


def best_loss(law: Law, cost: Cost, budget: float) -> float:
    """Return the smallest loss at a budget."""
    return float(law.loss(np.exp(best_size(law, cost, budget)), np.exp(best_samples(law, cost, budget))))


def growth_exponent(law: Law, cost: Cost) -> float:
    """Return the exponent of N* = const * C^exponent."""
    return law.b / (law.a + cost.exponent * law.b)


def interval(
    law: Law,
    quantity: Callable[[Law], float],
    level: float = LEVEL,
    *,
    of_a_run: bool = False,
) -> Interval:
    """Return a quantity of the law and its interval.

    of_a_run: the quantity is a loss, and the interval is to hold one more run's, with its own noise.
    """
    values, mean = law.values, quantity(law)
    slope = np.empty(len(values))
    for place, value in enumerate(values):
        step = np.zeros(len(values))
        step[place] = 1e-5 * max(1.0, abs(value))
        above, below = (quantity(law.with_values(values + sign * step)) for sign in (1, -1))
        slope[place] = (above - below) / (2 * step[place])
    variance = float(slope @ law.covariance @ slope)
    if of_a_run:
        variance += (law.spread * mean) ** 2
    reach = student_quantile((1 + level) / 2, law.freedom) * float(np.sqrt(max(variance, 0.0)))
    return Interval(mean, mean - reach, mean + reach)


def exponential(found: Interval) -> Interval:
    """Return the interval of what the given one holds the logarithm of."""
    return Interval(*(float(np.exp(min(value, 700.0))) for value in found))


def student_quantile(share: float, freedom: int) -> float:
    """Return the quantile of Student's t distribution.

    With t = sqrt(freedom) tan(phi) its density becomes cos(phi)^(freedom - 1), integrated numerically.
    """
    phi = np.linspace(-np.pi / 2, np.pi / 2, 20001)
    density = np.cos(phi) ** (freedom - 1)
    below = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2)])
    return float(np.sqrt(freedom) * np.tan(np.interp(share, below / below[-1], phi)))
