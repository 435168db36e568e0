"""Steps that keep the estimated data and change the level of noise."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

from torch import Tensor

from core.diffusion.solvers.levels import Estimate, Level, mixed
from core.diffusion.solvers.stepwise import Course, Stepwise, Walk


@Stepwise
def ddim(x: Tensor, course: Course) -> Walk:
    """Solve by DDIM (Song et al., arXiv:2010.02502, eq. 12): with eta = 0 keep the noise, change the level.

    That is Euler's method for the probability flow, order 1, in the variables of `runge_kutta.py`. With
    eta > 0 a step draws part of its noise anew, with eta = 1 as much as the ancestral sampler.
    """
    for number, here, there in course.steps:
        estimate = yield x, here
        x = ddim_step(estimate, here, there, course.options.eta, partial(course.noise, number))
    return x


def ddim_step(
    estimate: Estimate, here: Level, there: Level, eta: float, draw: Callable[[], Tensor]
) -> Tensor:
    """Take one step.  draw: gives the noise, if it needs any."""
    drawn = eta * _ancestral_deviation(here, there) if eta else 0.0
    if not drawn:
        return estimate.at(there)
    kept = math.sqrt(max(0.0, there.sigma**2 - drawn**2))
    return mixed((there.alpha, estimate.data), (kept, estimate.noise), (drawn, draw()))


@Stepwise
def renoise(x: Tensor, course: Course) -> Walk:
    """Estimate the data and add new noise of the next level, as few-step models are sampled (2303.01469).

    For a network that estimates the mean of the data, the limit of many steps has half of their variance: it
    is meant for networks that map to samples.
    """
    for number, here, there in course.steps:
        estimate = yield x, here
        new = [(there.sigma, course.noise(number))] if there.sigma > 0 else []
        x = mixed((there.alpha, estimate.data), *new)
    return x


def _ancestral_deviation(here: Level, there: Level) -> float:
    """Return the standard deviation of q(x_s | x_t, x_0): of 2010.02502, eq. 16, on any path."""
    ratio = here.alpha / there.alpha
    transition = here.sigma**2 - (ratio * there.sigma) ** 2
    return math.sqrt(max(0.0, transition)) * there.sigma / here.sigma
