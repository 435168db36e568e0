"""Solvers that add noise beside the step of another: Langevin's, that of EDM, and restarts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from itertools import pairwise

from torch import Tensor

from core.diffusion.paths.path import Path
from core.diffusion.solvers.ddim import ddim_step
from core.diffusion.solvers.levels import (
    DEFAULTS,
    Denoise,
    Level,
    Noise,
    Options,
    levels,
    levels_at,
    noise_to_signal,
    times_at,
)
from core.diffusion.solvers.runge_kutta import heun_step

MOST_CHURN = math.sqrt(2) - 1  # 2206.00364, algorithm 2


def euler_maruyama(
    denoise: Denoise,
    x: Tensor,
    times: Sequence[float],
    path: Path,
    *,
    noise: Noise,
    options: Options = DEFAULTS,
) -> Tensor:
    """Solve the reverse SDE of diffusion w = 2 eta r by the method of Euler and Maruyama, weak order 1.

    With z = x / (alpha + sigma) and r = sigma / (alpha + sigma), of score -noise / r, a step of length h is

        z <- z - h (noise - data) - eta h noise + sqrt(2 eta r h) draw.

    Any w has the same marginals; w = sigma, or eta = 1/2, is that of SiT on rectified flow (2401.08740). It
    is finite where there is no signal, which the reverse of the forward SDE, w = 2 r / (1 - r), is not. The
    step to t = 0 draws nothing.
    """
    for number, (here, there) in enumerate(pairwise(levels(path, times))):
        estimate = denoise(x, here)
        h = here.straight - there.straight
        z = x / (here.alpha + here.sigma) - h * (estimate.noise - estimate.data)
        if there.sigma > 0:
            z = z - options.eta * h * estimate.noise
            z = z + math.sqrt(2 * options.eta * here.straight * h) * noise(number)
        x = z * (there.alpha + there.sigma)
    return x


def langevin(
    denoise: Denoise,
    x: Tensor,
    times: Sequence[float],
    path: Path,
    *,
    noise: Noise,
    options: Options = DEFAULTS,
) -> Tensor:
    """Predict by a step of ddim, and correct by Langevin steps at its end (2011.13456, algorithm 2).

    x <- x + e score + sqrt(2 e) draw with e = 2 (size sigma)^2. There e is found from norms over the batch;
    for pure noise those give this e, which depends on the level alone. Nothing is corrected at t = 0.
    """
    corrector = options.corrector
    each = 1 + corrector.steps
    for number, (here, there) in enumerate(pairwise(levels(path, times))):
        x = ddim_step(denoise(x, here), here, there, options.eta, partial(noise, number * each))
        if there.sigma == 0:
            continue
        for place in range(1, each):
            shrink = 2 * corrector.size**2 * there.sigma
            x = x - shrink * denoise(x, there).noise
            x = x + 2 * corrector.size * there.sigma * noise(number * each + place)
    return x


def edm(
    denoise: Denoise,
    x: Tensor,
    times: Sequence[float],
    path: Path,
    *,
    noise: Noise,
    options: Options = DEFAULTS,
) -> Tensor:
    """Raise the noise of each level a little, then take Heun's step down (2206.00364, algorithm 2).

    s = sigma / alpha is raised by the factor 1 + min(amount / steps, sqrt(2) - 1), within [low, high], and
    never beyond the noise of t = 1. Heun's steps are taken in sigma / (alpha + sigma), as those of `heun`.
    """
    grid = levels(path, times)
    for number, ((here, there), raised) in enumerate(
        zip(pairwise(grid), _raised(path, grid, options), strict=True)
    ):
        level = here
        if raised is not None:
            grown = raised.alpha / here.alpha
            drawn = math.sqrt(max(0.0, raised.sigma**2 - (grown * here.sigma) ** 2))
            x = grown * x + options.churn.noise * drawn * noise(number)
            level = raised
        x = heun_step(denoise, x, level, there)
    return x


def _raised(path: Path, grid: Sequence[Level], options: Options) -> list[Level | None]:
    """Return the level that noise is added up to, None where none is."""
    churn = options.churn
    factor = 1 + min(churn.amount / (len(grid) - 1), MOST_CHURN)
    top = levels_at(path, [1.0])[0]
    wanted: dict[int, float] = {}
    for number, level in enumerate(grid[:-1]):
        if level.alpha > 0 and churn.low <= level.sigma / level.alpha <= churn.high and factor > 1:
            ratio = factor * level.sigma / level.alpha
            if top.alpha == 0 or ratio <= top.sigma / top.alpha:
                wanted[number] = math.log(ratio)
    found = levels_at(path, times_at(path, list(wanted.values()), noise_to_signal)) if wanted else []
    by_number = dict(zip(wanted, found, strict=True))
    return [by_number.get(number) for number in range(len(grid) - 1)]


def restart(
    denoise: Denoise,
    x: Tensor,
    times: Sequence[float],
    path: Path,
    *,
    noise: Noise,
    options: Options = DEFAULTS,
) -> Tensor:
    """Take Heun's steps, and repeat those of an interval from noise added at its end (2306.14878, alg. 1).

    The interval runs between the times of the grid that lie nearest to options.restart.high and .low.
    """
    grid, again = levels(path, times), options.restart
    inner = range(len(grid) - 1)  # the end of the grid, t = 0, has no noise to add to
    first, last = (min(inner, key=lambda n: abs(grid[n].t - t)) for t in (again.high, again.low))
    for number, (here, there) in enumerate(pairwise(grid)):
        x = heun_step(denoise, x, here, there)
        if number + 1 != last or first >= last:
            continue
        high, low = grid[first], grid[last]
        ratio = high.alpha / low.alpha
        drawn = math.sqrt(max(0.0, high.sigma**2 - (ratio * low.sigma) ** 2))
        for repeat in range(again.times):
            x = ratio * x + drawn * noise(repeat)
            for step in pairwise(grid[first : last + 1]):
                x = heun_step(denoise, x, *step)
    return x
