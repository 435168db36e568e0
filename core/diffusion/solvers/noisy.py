"""Solvers that add noise beside the step of another: Langevin's, that of EDM, and restarts."""

from __future__ import annotations

import math
from functools import partial
from itertools import pairwise

from torch import Tensor

from core.diffusion.solvers.ddim import ddim_step
from core.diffusion.solvers.levels import Level, levels_at, mixed, noise_to_signal, times_at
from core.diffusion.solvers.runge_kutta import heun_step
from core.diffusion.solvers.stepwise import Course, Stepwise, Walk

MOST_CHURN = math.sqrt(2) - 1  # 2206.00364, algorithm 2


@Stepwise
def euler_maruyama(x: Tensor, course: Course) -> Walk:
    """Solve the reverse SDE of diffusion w = 2 eta r by the method of Euler and Maruyama, weak order 1.

    With z = x / (alpha + sigma) and r = sigma / (alpha + sigma), of score -noise / r, a step of length h is

        z <- z - h (noise - data) - eta h noise + sqrt(2 eta r h) draw.

    Any w has the same marginals; w = sigma, or eta = 1/2, is that of SiT on rectified flow (2401.08740). It
    is finite where there is no signal, which the reverse of the forward SDE, w = 2 r / (1 - r), is not. The
    step to t = 0 draws nothing.
    """
    for number, here, there in course.steps:
        estimate = yield x, here
        eta = course.options.eta if there.sigma > 0 else 0.0
        h, size = here.straight - there.straight, there.alpha + there.sigma
        drawn = size * math.sqrt(2 * eta * here.straight * h)
        x = mixed(
            (size / (here.alpha + here.sigma), x),
            (size * h, estimate.data),
            (-size * h * (1 + eta), estimate.noise),
            *([(drawn, course.noise(number))] if drawn else []),
        )
    return x


@Stepwise
def langevin(x: Tensor, course: Course) -> Walk:
    """Predict by a step of ddim, and correct by Langevin steps at its end (2011.13456, algorithm 2).

    x <- x + e score + sqrt(2 e) draw with e = 2 (size sigma)^2. There e is found from norms over the batch;
    for pure noise those give this e, which depends on the level alone. Nothing is corrected at t = 0.
    """
    corrector, eta = course.options.corrector, course.options.eta
    each = 1 + corrector.steps
    for number, here, there in course.steps:
        estimate = yield x, here
        x = ddim_step(estimate, here, there, eta, partial(course.noise, number * each))
        if there.sigma == 0:
            continue
        for place in range(1, each):
            estimate = yield x, there
            shrink, drawn = 2 * corrector.size**2 * there.sigma, 2 * corrector.size * there.sigma
            x = mixed((1.0, x), (-shrink, estimate.noise), (drawn, course.noise(number * each + place)))
    return x


@Stepwise
def edm(x: Tensor, course: Course) -> Walk:
    """Raise the noise of each level a little, then take Heun's step down (2206.00364, algorithm 2).

    s = sigma / alpha is raised by the factor 1 + min(amount / steps, sqrt(2) - 1), within [low, high], and
    never beyond the noise of t = 1. Heun's steps are taken in sigma / (alpha + sigma), as those of `heun`.
    """
    for (number, here, there), raised in zip(course.steps, _raised(course), strict=True):
        level = here
        if raised is not None:
            grown = raised.alpha / here.alpha
            drawn = math.sqrt(max(0.0, raised.sigma**2 - (grown * here.sigma) ** 2))
            x = mixed((grown, x), (course.options.churn.noise * drawn, course.noise(number)))
            level = raised
        x = yield from heun_step(x, level, there)
    return x


def _raised(course: Course) -> list[Level | None]:
    """Return the level that noise is added up to, None where none is."""
    churn, grid = course.options.churn, course.levels
    factor = 1 + min(churn.amount / (len(grid) - 1), MOST_CHURN)
    top = levels_at(course.path, [1.0])[0]
    wanted: dict[int, float] = {}
    for number, level in enumerate(grid[:-1]):
        if level.alpha > 0 and churn.low <= level.sigma / level.alpha <= churn.high and factor > 1:
            ratio = factor * level.sigma / level.alpha
            if top.alpha == 0 or ratio <= top.sigma / top.alpha:
                wanted[number] = math.log(ratio)
    places = times_at(course.path, list(wanted.values()), noise_to_signal) if wanted else []
    by_number = dict(zip(wanted, levels_at(course.path, places) if wanted else [], strict=True))
    return [by_number.get(number) for number in range(len(grid) - 1)]


@Stepwise
def restart(x: Tensor, course: Course) -> Walk:
    """Take Heun's steps, and repeat those of an interval from noise added at its end (2306.14878, alg. 1).

    The interval runs between the times of the grid that lie nearest to options.restart.high and .low.
    """
    grid, again = course.levels, course.options.restart
    inner = range(len(grid) - 1)  # the end of the grid, t = 0, has no noise to add to
    first, last = (min(inner, key=lambda n: abs(grid[n].t - t)) for t in (again.high, again.low))
    for number, here, there in course.steps:
        x = yield from heun_step(x, here, there)
        if number + 1 != last or first >= last:
            continue
        high, low = grid[first], grid[last]
        ratio = high.alpha / low.alpha
        drawn = math.sqrt(max(0.0, high.sigma**2 - (ratio * low.sigma) ** 2))
        for repeat in range(again.times):
            x = mixed((ratio, x), (drawn, course.noise(repeat)))
            for step in pairwise(grid[first : last + 1]):
                x = yield from heun_step(x, *step)
    return x
