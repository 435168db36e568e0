"""Runge-Kutta methods for the probability flow, in the variables in which every path is straight.

With z = x / (alpha + sigma) and r = sigma / (alpha + sigma), z = (1 - r) data + r noise, so that
dz/dr = noise - data: on rectified flow z is x and r is t (2209.03003); on other paths this is the probability
flow (2011.13456, eq. 13) without the stiffness that t has near 0. Euler's method is the step of ddim:
z + (r_s - r) (noise - data) = (1 - r_s) data + r_s noise.
"""

from __future__ import annotations

from torch import Tensor

from core.diffusion.solvers.levels import Level, levels_at, mixed, noise_share, times_at
from core.diffusion.solvers.stepwise import Course, Stepwise, Walk


@Stepwise
def midpoint(x: Tensor, course: Course) -> Walk:
    """Solve by the midpoint rule, order 2, two evaluations a step; the network never sees t = 0."""
    for (_, here, there), middle in zip(course.steps, _middles(course), strict=True):
        x = yield from _midpoint_step(x, here, middle, there)
    return x


@Stepwise
def heun(x: Tensor, course: Course) -> Walk:
    """Solve by Heun's method, order 2, two evaluations a step.

    The step to t = 0 is Euler's, since noise and its time are not defined there (2206.00364, algorithm 1).
    """
    for _, here, there in course.steps:
        x = yield from heun_step(x, here, there)
    return x


@Stepwise
def rk4(x: Tensor, course: Course) -> Walk:
    """Solve by the classical Runge-Kutta method, order 4, four evaluations a step.

    The step to t = 0 is the midpoint rule's, which does not evaluate there.
    """
    for (_, here, there), middle in zip(course.steps, _middles(course), strict=True):
        if there.sigma == 0:
            x = yield from _midpoint_step(x, here, middle, there)
            continue
        estimate = yield x, here
        first = estimate.slope
        second = yield from _slope(estimate.at(middle), middle)
        third = yield from _slope(_moved(x, here, middle, second), middle)
        fourth = yield from _slope(_moved(x, here, there, third), there)
        x = _moved(x, here, there, mixed((1 / 6, first), (1 / 3, second), (1 / 3, third), (1 / 6, fourth)))
    return x


def heun_step(x: Tensor, here: Level, there: Level) -> Walk:
    """Take one step of Heun's method, to t = 0 of Euler's.

    Half of the way is Euler's, and half goes by the slope at its end.
    """
    first = yield x, here
    euler = first.at(there)
    if there.sigma == 0:
        return euler
    slope = yield from _slope(euler, there)
    kept, along = _factors(here, there)
    return mixed((0.5, euler), (kept / 2, x), (along / 2, slope))


def _moved(x: Tensor, here: Level, there: Level, slope: Tensor) -> Tensor:
    """Return the state at `there` of one at `here`, by a slope dz/dr."""
    kept, along = _factors(here, there)
    return mixed((kept, x), (along, slope))


def _factors(here: Level, there: Level) -> tuple[float, float]:
    """Return those of the state and of a slope."""
    size = there.alpha + there.sigma
    return size / (here.alpha + here.sigma), size * (there.straight - here.straight)


def _slope(x: Tensor, level: Level) -> Walk:
    estimate = yield x, level
    return estimate.slope


def _midpoint_step(x: Tensor, here: Level, middle: Level, there: Level) -> Walk:
    estimate = yield x, here
    slope = yield from _slope(estimate.at(middle), middle)
    return _moved(x, here, there, slope)


def _middles(course: Course) -> list[Level]:
    """Return the levels half-way between neighbours in the straight variable."""
    halves = [(here.straight + there.straight) / 2 for _, here, there in course.steps]
    return levels_at(course.path, times_at(course.path, halves, noise_share))
