"""Runge-Kutta methods for the probability flow, in the variables in which every path is straight.

With z = x / (alpha + sigma) and r = sigma / (alpha + sigma), z = (1 - r) data + r noise, so that
dz/dr = noise - data: on rectified flow z is x and r is t (2209.03003); on other paths this is the probability
flow (2011.13456, eq. 13) without the stiffness that t has near 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor

from core.diffusion.paths.path import Path
from core.diffusion.solvers.levels import (
    DEFAULTS,
    Denoise,
    Level,
    Noise,
    Options,
    levels,
    levels_at,
    noise_share,
    times_at,
)


def euler(
    denoise: Denoise,
    x: Tensor,
    times: Sequence[float],
    path: Path,
    *,
    noise: Noise,
    options: Options = DEFAULTS,
) -> Tensor:
    """Solve by Euler's method, order 1: the same steps as those of ddim with eta = 0."""
    for here, there in pairwise(levels(path, times)):
        z = x / (here.alpha + here.sigma) + (there.straight - here.straight) * _slope(denoise, x, here)
        x = z * (there.alpha + there.sigma)
    return x


def midpoint(
    denoise: Denoise,
    x: Tensor,
    times: Sequence[float],
    path: Path,
    *,
    noise: Noise,
    options: Options = DEFAULTS,
) -> Tensor:
    """Solve by the midpoint rule, order 2, two evaluations a step; the network never sees t = 0."""
    grid = levels(path, times)
    for (here, there), middle in zip(pairwise(grid), _middles(path, grid), strict=True):
        x = _midpoint_step(denoise, x, here, middle, there)
    return x


def heun(
    denoise: Denoise,
    x: Tensor,
    times: Sequence[float],
    path: Path,
    *,
    noise: Noise,
    options: Options = DEFAULTS,
) -> Tensor:
    """Solve by Heun's method, order 2, two evaluations a step.

    The step to t = 0 is Euler's, since noise and its time are not defined there (2206.00364, algorithm 1).
    """
    for here, there in pairwise(levels(path, times)):
        x = heun_step(denoise, x, here, there)
    return x


def rk4(
    denoise: Denoise,
    x: Tensor,
    times: Sequence[float],
    path: Path,
    *,
    noise: Noise,
    options: Options = DEFAULTS,
) -> Tensor:
    """Solve by the classical Runge-Kutta method, order 4, four evaluations a step.

    The step to t = 0 is the midpoint rule's, which does not evaluate there.
    """
    grid = levels(path, times)
    for (here, there), middle in zip(pairwise(grid), _middles(path, grid), strict=True):
        if there.sigma == 0:
            x = _midpoint_step(denoise, x, here, middle, there)
            continue
        z, step = x / (here.alpha + here.sigma), there.straight - here.straight
        first = _slope(denoise, x, here)
        second = _slope(denoise, (z + step / 2 * first) * (middle.alpha + middle.sigma), middle)
        third = _slope(denoise, (z + step / 2 * second) * (middle.alpha + middle.sigma), middle)
        fourth = _slope(denoise, (z + step * third) * (there.alpha + there.sigma), there)
        x = (z + step / 6 * (first + 2 * (second + third) + fourth)) * (there.alpha + there.sigma)
    return x


def heun_step(denoise: Denoise, x: Tensor, here: Level, there: Level) -> Tensor:
    """Take one step of Heun's method, to t = 0 of Euler's."""
    z, r, r_next = x / (here.alpha + here.sigma), here.straight, there.straight
    slope = _slope(denoise, x, here)
    if there.sigma > 0:
        second = denoise((z + (r_next - r) * slope) * (there.alpha + there.sigma), there)
        slope = (slope + second.noise - second.data) / 2
    return (z + (r_next - r) * slope) * (there.alpha + there.sigma)


def _slope(denoise: Denoise, x: Tensor, level: Level) -> Tensor:
    estimate = denoise(x, level)
    return estimate.noise - estimate.data


def _midpoint_step(denoise: Denoise, x: Tensor, here: Level, middle: Level, there: Level) -> Tensor:
    z, step = x / (here.alpha + here.sigma), there.straight - here.straight
    half = (z + step / 2 * _slope(denoise, x, here)) * (middle.alpha + middle.sigma)
    return (z + step * _slope(denoise, half, middle)) * (there.alpha + there.sigma)


def _middles(path: Path, grid: Sequence[Level]) -> list[Level]:
    """Return the levels half-way between neighbours in the straight variable."""
    halves = [(here.straight + there.straight) / 2 for here, there in pairwise(grid)]
    return levels_at(path, times_at(path, halves, noise_share))
