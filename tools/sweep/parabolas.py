"""Find the best size for each budget by a parabola in ln N, and how it grows with the budget.

Hoffmann et al. (2022, arXiv:2203.15556), approach 2. A parabola is symmetric and the loss at one budget is
not, so that a ladder which is not centred on the optimum shifts the exponent; the law of `tools.sweep.law`
has no such bias. It is shown beside it, as a check that rests on fewer assumptions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class Parabola(NamedTuple):
    """The fit at one budget.  N, loss: of its vertex; None where it has no minimum among the sizes tried.

    coefficients: of (ln N)^2, ln N and 1.
    """

    budget: float
    coefficients: Array
    N: float | None
    loss: float | None


class Growth(NamedTuple):
    """N* = scale * C^exponent over the vertices.

    error: standard error of the exponent; None with two budgets.
    """

    scale: float
    exponent: float
    error: float | None


def parabola(budget: float, N: Array, loss: Array) -> Parabola | None:
    """Fit one budget's runs; None with fewer than 3 sizes."""
    log = np.log(N)
    if len(np.unique(np.round(log, 6))) < 3:
        return None
    middle = log.mean()
    c2, c1, c0 = np.polyfit(log - middle, loss, 2)
    whole = np.array([c2, c1 - 2 * c2 * middle, c0 - c1 * middle + c2 * middle**2])
    if c2 <= 0 or not log.min() <= (vertex := middle - c1 / (2 * c2)) <= log.max():
        return Parabola(budget, whole, None, None)
    return Parabola(budget, whole, float(np.exp(vertex)), float(c0 - c1**2 / (4 * c2)))


def growth(found: Sequence[Parabola]) -> Growth | None:
    """Fit the growth of the best size with the budget; None with fewer than 2 vertices."""
    vertices = [(each.budget, each.N) for each in found if each.N is not None]
    if len({budget for budget, _ in vertices}) < 2:
        return None
    log_C, log_N = np.log(np.array(vertices)).T
    middle = log_C - log_C.mean()
    exponent = float(middle @ log_N / (middle @ middle))
    scale = float(np.exp(log_N.mean() - exponent * log_C.mean()))
    if len(vertices) < 3:
        return Growth(scale, exponent, None)
    residuals = log_N - log_N.mean() - exponent * middle
    error = np.sqrt(residuals @ residuals / (len(vertices) - 2) / (middle @ middle))
    return Growth(scale, exponent, float(error))
