"""Solvers: from noise to data along a path, one function per algorithm.

A solver is `solve(denoise, x, times, path, *, noise)`. `times` falls from the start to 0. `denoise(x,
level)` gives the data and the noise that the network sees in x at that level. `noise(i)` gives fresh
normals like x for step i; the deterministic solvers never call it.

All coefficients are computed in float64 before the loop and enter it as Python numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor

from core.diffusion.paths import Path
from core.diffusion.posterior import log_variance, posterior


@dataclass(frozen=True)
class Level:
    """A time on the path with its coefficients; time_input is the network's form of it."""

    t: float
    alpha: float
    sigma: float
    time_input: float


@dataclass(frozen=True)
class Estimate:
    """Data and noise that the network estimates in x_t; fraction is its variance output, if any."""

    data: Tensor
    noise: Tensor
    fraction: Tensor | None = None


Denoise = Callable[[Tensor, Level], Estimate]
Noise = Callable[[int], Tensor]


class Solver(Protocol):
    def __call__(
        self, denoise: Denoise, x: Tensor, times: Sequence[float], path: Path, *, noise: Noise
    ) -> Tensor: ...


def euler(denoise: Denoise, x: Tensor, times: Sequence[float], path: Path, *, noise: Noise) -> Tensor:
    """Solve by Euler's method, order 1, in the variables in which every path is straight.

    With z = x / (alpha + sigma) and r = sigma / (alpha + sigma), z = (1 - r) data + r noise, so that
    dz/dr = noise - data: on rectified flow z is x and r is t (2209.03003); on other paths this is the
    probability flow (2011.13456, eq. 13) without the stiffness that t has near 0.
    """
    for here, there in pairwise(levels(path, times)):
        z, r, r_next = x / (here.alpha + here.sigma), _straight(here), _straight(there)
        estimate = denoise(x, here)
        z = z + (r_next - r) * (estimate.noise - estimate.data)
        x = z * (there.alpha + there.sigma)
    return x


def heun(denoise: Denoise, x: Tensor, times: Sequence[float], path: Path, *, noise: Noise) -> Tensor:
    """Solve by Heun's method, order 2, two evaluations a step, in the same variables as `euler`.

    The step to t = 0 is Euler's, since noise and its time are not defined there (2206.00364, algorithm 1).
    """
    for here, there in pairwise(levels(path, times)):
        z, r, r_next = x / (here.alpha + here.sigma), _straight(here), _straight(there)
        first = denoise(x, here)
        slope = first.noise - first.data
        if there.sigma > 0:
            second = denoise((z + (r_next - r) * slope) * (there.alpha + there.sigma), there)
            slope = (slope + second.noise - second.data) / 2
        x = (z + (r_next - r) * slope) * (there.alpha + there.sigma)
    return x


def ddim(denoise: Denoise, x: Tensor, times: Sequence[float], path: Path, *, noise: Noise) -> Tensor:
    """Solve by DDIM, eta = 0: keep the noise, change the level (Song et al., arXiv:2010.02502, eq. 12)."""
    for here, there in pairwise(levels(path, times)):
        estimate = denoise(x, here)
        x = there.alpha * estimate.data + there.sigma * estimate.noise
    return x


def ddpm(denoise: Denoise, x: Tensor, times: Sequence[float], path: Path, *, noise: Noise) -> Tensor:
    """Sample ancestrally: draw from q(x_s | x_t, x_0 = data) (Ho et al., arXiv:2006.11239, eq. 6-7).

    The variance is the network's where it predicts one (2102.09672, eq. 15), else the posterior's. The last
    step adds no noise.
    """
    grid = torch.tensor(list(times), dtype=torch.float64)
    step = posterior(path, grid[:-1], grid[1:])
    from_x, from_data = step.from_x.tolist(), step.from_data.tolist()
    variance, transition = step.variance.tolist(), step.transition.tolist()
    for i, (here, there) in enumerate(pairwise(levels(path, times))):
        estimate = denoise(x, here)
        x = from_x[i] * x + from_data[i] * estimate.data
        if there.sigma == 0:
            continue
        if estimate.fraction is None:
            x = x + variance[i] ** 0.5 * noise(i)
        else:
            lower, upper = x.new_full((), variance[i]), x.new_full((), transition[i])
            x = x + torch.exp(log_variance(estimate.fraction, lower, upper) / 2) * noise(i)
    return x


def levels(path: Path, times: Sequence[float]) -> list[Level]:
    """Return the coefficients of every time, as Python numbers; `times` must fall and end at 0."""
    if len(times) < 2 or times[-1] != 0 or any(a <= b for a, b in pairwise(times)):
        raise ValueError(f"times must fall to 0, got {list(times)}")
    t = torch.tensor(list(times), dtype=torch.float64)
    columns = (path.alpha(t), path.sigma(t), path.time_input(t))
    return [Level(*row) for row in zip(times, *(column.tolist() for column in columns), strict=True)]


def _straight(level: Level) -> float:
    """Return the share of noise, which runs from 0 at data to 1 at noise on every path."""
    return level.sigma / (level.alpha + level.sigma)
