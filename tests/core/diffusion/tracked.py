"""Solvers on Gaussian data, where each of them is an affine map, followed as one.

For data N(MEAN, VARIANCE) the estimate of the data is E[x_0 | x_t] = g x_t + c. A state is then a combination
of the start, of 1 and of what was drawn, which a vector of their factors is: (start, 1, draw, draw, ...).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from core.diffusion.paths.path import Path
from core.diffusion.solvers.kinds import KINDS, SolverName
from core.diffusion.solvers.levels import Denoise, Estimate, Level, Options

MEAN, VARIANCE = 0.7, 0.3
DRAWS, EACH = 60, 6  # more than any case makes, in all and in a step
Pair = tuple[float, float]  # alpha and sigma


def gain(alpha: float, sigma: float) -> Pair:
    """Return g and c of E[x_0 | x_t] = g x_t + c."""
    g = alpha * VARIANCE / (alpha**2 * VARIANCE + sigma**2)
    return g, MEAN - g * alpha * MEAN


def denoise(x: Tensor, level: Level) -> Estimate:
    g, c = gain(level.alpha, level.sigma)
    data = g * x + c
    return Estimate(data, (x - level.alpha * data) / level.sigma)


def coefficients(path: Path, times: Sequence[float]) -> list[Pair]:
    t = torch.tensor(list(times), dtype=torch.float64)
    return list(zip(path.alpha(t).tolist(), path.sigma(t).tolist(), strict=True))


def steps_of(path: Path, times: Sequence[float]) -> Iterator[tuple[Pair, Pair]]:
    return pairwise(coefficients(path, times))


def level_of(path: Path, value: float, measure: Callable[[float, float], float]) -> Pair:
    """Find by bisection where a measure that grows with time has a value."""
    low, high = 0.0, 1.0
    for _ in range(56):
        middle = (low + high) / 2
        ((alpha, sigma),) = coefficients(path, [middle])
        low, high = (middle, high) if measure(alpha, sigma) < value else (low, middle)
    return coefficients(path, [high])[0]


def begun(times: Sequence[float]) -> Tensor:
    """Return the state that is the start, with room for what is drawn in these steps."""
    state = torch.zeros(2 + EACH * len(times), dtype=torch.float64)
    state[0] = 1.0
    return state


def estimate(state: Tensor, level: Pair) -> Tensor:
    """Return the data estimated in a state."""
    g, c = gain(*level)
    data = g * state
    data[1] += c
    return data


def drawing(state: Tensor) -> Iterator[Tensor]:
    """Yield draws, each independent of all before."""
    for number in range(2, len(state)):
        draw = torch.zeros_like(state)
        draw[number] = 1.0
        yield draw


def found_by(
    solver: SolverName,
    options: Options,
    path: Path,
    times: Sequence[float],
    estimates: Denoise = denoise,
) -> Tensor:
    """Find the factors of a solver's end by running it on a batch: starts 1 and 0, and units of draws.

    estimates: of the data, of a batch (DRAWS + 2,).
    """
    start = torch.zeros(2 + DRAWS, dtype=torch.float64)
    start[0] = 1.0

    def unit(number: int) -> Tensor:
        return torch.eye(2 + DRAWS, dtype=torch.float64)[2 + number]

    end = KINDS[solver].solve(estimates, start, times, path, noise=unit, options=options)
    factors = end - end[1]
    factors[1] = end[1]
    return factors


def moments(factors: Tensor) -> Tensor:
    """Return the covariance with a start of unit variance, the mean from 0, and the variance of the draws."""
    return torch.stack([factors[0], factors[1], factors[2:].square().sum()])


def variance_of(factors: Tensor) -> float:
    """Return the variance of the end of starts of unit variance."""
    return float(factors[0] ** 2 + factors[2:].square().sum())


def slope(counts: Sequence[int], errors: Sequence[float]) -> float:
    """Return the power of the step by which errors fall, by least squares."""
    x = torch.tensor([math.log(count) for count in counts], dtype=torch.float64)
    y = torch.tensor([-math.log(error) for error in errors], dtype=torch.float64)
    return float(((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum())
