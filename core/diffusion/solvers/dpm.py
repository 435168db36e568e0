"""DPM-Solver++ (Lu et al., arXiv:2211.01095): the exact flow for a polynomial estimate of the data.

In l = log(alpha / sigma) the flow from level t to s, h = l_s - l_t, is

    x_s = (sigma_s / sigma_t) x_t + alpha_s int_0^h exp(u - h) data(l_t + u) du.

With a constant estimate the integral is 1 - exp(-h), and alpha_s (1 - exp(-h)) = alpha_s - sigma_s alpha_t /
sigma_t: the step of ddim, which has a limit where alpha_t = 0 or sigma_s = 0. Steps that begin or end there
are of this first order, as are those whose history holds such a level: differences in l would be infinite.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

from torch import Tensor

from core.diffusion.solvers.levels import Level, levels_at, mixed, noise_to_signal, times_at
from core.diffusion.solvers.stepwise import Course, Stepwise, Walk


@dataclass(frozen=True)
class Step:
    """One step.  keep, take: of x and of a constant estimate.  h: its length in l, infinite at the ends."""

    here: Level
    there: Level
    keep: float
    take: float
    h: float


def steps(grid: Sequence[Level]) -> list[Step]:
    """Return the coefficients of all steps of a grid."""
    found = []
    for here, there in pairwise(grid):
        keep = there.sigma / here.sigma
        found.append(Step(here, there, keep, there.alpha - keep * here.alpha, there.log_snr - here.log_snr))
    return found


Weights = Callable[[Sequence[Step]], list[tuple[float, ...]]]


def weights_2m(plan: Sequence[Step]) -> list[tuple[float, ...]]:
    """Return the weights of the last two estimates, the newest first, for each step."""
    found: list[tuple[float, ...]] = [(plan[0].take,)]
    for before, step in pairwise(plan):
        if not math.isfinite(before.h) or not math.isfinite(step.h):
            found.append((step.take,))
            continue
        more = step.take * step.h / (2 * before.h)
        found.append((step.take + more, -more))
    return found


def weights_3m(plan: Sequence[Step]) -> list[tuple[float, ...]]:
    """Return the weights of the last estimates, the newest first: of the parabola through three of them, of
    the line where there are two.
    """
    found: list[tuple[float, ...]] = [(plan[0].take,)]
    for number in range(1, len(plan)):
        before, step = plan[number - 1], plan[number]
        if not math.isfinite(before.h) or not math.isfinite(step.h):
            found.append((step.take,))
        elif number > 1 and math.isfinite(plan[number - 2].h):
            found.append(_parabola(step, before.h / step.h, plan[number - 2].h / step.h))
        else:
            late = _late(step) * step.h / before.h
            found.append((step.take + late, -late))
    return found


def weights_3m_diffusers(plan: Sequence[Step]) -> list[tuple[float, ...]]:
    """Return the weights with half of the second difference, and the rule of 2M where there are two."""
    found = weights_2m(plan)
    for number in range(2, len(plan)):
        first, second, step = plan[number - 2 : number + 1]
        if all(math.isfinite(each.h) for each in (first, second, step)):
            found[number] = _parabola(step, second.h / step.h, first.h / step.h, curvature=0.5)
    return found


def _late(step: Step) -> float:
    """Return alpha_s times the integral of exp(u - h) u / h over the step."""
    return step.there.alpha * (1 + math.expm1(-step.h) / step.h)


def _parabola(step: Step, r0: float, r1: float, curvature: float = 1.0) -> tuple[float, ...]:
    """Return the weights of the estimates at u / h = 0, -r0 and -r0 - r1.

    With divided differences f1 and f2 the parabola is d0 + (u / h) (f1 + r0 f2) + (u / h)^2 f2.
    curvature: factor of the integral of its last term.
    """
    slope = _late(step)
    curve = curvature * (step.there.alpha - 2 * slope / step.h)
    f1 = (1 / r0, -1 / r0, 0.0)
    f2 = (1 / r0 / (r0 + r1), (-1 / r0 - 1 / r1) / (r0 + r1), 1 / r1 / (r0 + r1))
    bent = slope * r0 + curve
    return tuple(step.take * (place == 0) + slope * f1[place] + bent * f2[place] for place in range(3))


def _multistep(x: Tensor, course: Course, *, weights: Weights, corrects_start: bool = False) -> Walk:
    """Solve by the weighted last estimates, one evaluation a step, as DPM-Solver++(2M) does (algorithm 2).

    weights: of all steps.  corrects_start: the first step has one estimate alone; the next one, made at its
    end, corrects it to the line through both. Otherwise an error of second order is left in the end.
    """
    plan = steps(course.levels)
    of_steps = weights(plan)
    history: list[Tensor] = []
    last = x
    for number, (step, factors) in enumerate(zip(plan, of_steps, strict=True)):
        estimate = yield x, step.here
        history = [estimate.data, *history[:2]]
        if corrects_start and number and len(of_steps[number - 1]) == 1 and math.isfinite(plan[number - 1].h):
            x = _on_a_line(last, plan[number - 1], history[1], history[0])
        last = x
        x = mixed((step.keep, x), *zip(factors, history, strict=False))
    return x


dpmpp_2m = Stepwise(partial(_multistep, weights=weights_2m))
dpmpp_3m = Stepwise(partial(_multistep, weights=weights_3m, corrects_start=True))
dpmpp_3m_diffusers = Stepwise(partial(_multistep, weights=weights_3m_diffusers))


def _on_a_line(x: Tensor, step: Step, first: Tensor, last: Tensor) -> Tensor:
    """Take a step for the estimate that runs from `first` to `last`."""
    late = _late(step)
    return mixed((step.keep, x), (step.take - late, first), (late, last))


@Stepwise
def dpmpp_2s(x: Tensor, course: Course) -> Walk:
    """Solve by DPM-Solver++(2S), order 2, two evaluations a step, the second half-way in l (algorithm 1)."""
    plan = steps(course.levels)
    inner = [step for step in plan if math.isfinite(step.h)]
    halves = [-(step.here.log_snr + step.h / 2) for step in inner]
    middles = iter(levels_at(course.path, times_at(course.path, halves, noise_to_signal)) if inner else [])
    for step in plan:
        estimate = yield x, step.here
        if math.isfinite(step.h):
            middle = next(middles)
            keep = middle.sigma / step.here.sigma
            half = mixed((keep, x), (middle.alpha - keep * step.here.alpha, estimate.data))
            estimate = yield half, middle
        x = mixed((step.keep, x), (step.take, estimate.data))
    return x


def _sde(
    x: Tensor, course: Course, *, uses_history: bool = False, before: tuple[Tensor, float] | None = None
) -> Walk:
    """Solve the reverse SDE by its exponential integrator, weak order 1, one evaluation a step.

    x_s = (sigma_s / sigma_t) e^-h x + alpha_s (1 - e^-2h) data + sigma_s sqrt(1 - e^-2h) z.
    uses_history: the estimate is extrapolated from the last two.  before: the data that were estimated one
    step before the start, and the length of that step in l.
    """
    for number, step in enumerate(steps(course.levels)):
        here, there = step.here, step.there
        shrink = here.alpha * there.sigma / (here.sigma * there.alpha)  # exp(-h), 0 where h is infinite
        taken = there.alpha * (1 - shrink**2)
        estimate = yield x, here
        terms = [(step.keep * shrink, x), (taken, estimate.data)]
        if uses_history and before is not None and math.isfinite(step.h) and math.isfinite(before[1]):
            more = taken * step.h / (2 * before[1])
            terms[1:] = [(taken + more, estimate.data), (-more, before[0])]
        if there.sigma > 0:
            terms.append((there.sigma * math.sqrt(1 - shrink**2), course.noise(number)))
        before, x = (estimate.data, step.h), mixed(*terms)
    return x


sde_dpmpp = Stepwise(_sde)
sde_dpmpp_2m = Stepwise(partial(_sde, uses_history=True))


def sde_dpmpp_2m_after(data: Tensor, before: Level, start: Level) -> Stepwise:
    """Return `sde_dpmpp_2m` of a start that a step led to: from the level `before`, with these data."""
    h = start.log_snr - before.log_snr
    return Stepwise(partial(_sde, uses_history=True, before=(data, h)))
