"""UniPC (Zhao et al., arXiv:2302.04867), of estimates of the data, with B(h) = exp(-h) - 1 ("bh2").

Each step predicts by a multistep rule, and the estimate made there also corrects the step that led to it, so
an evaluation serves twice. Steps that begin or end where log(alpha / sigma) is infinite are of first order
and are not corrected.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from core.diffusion.solvers.dpm import Step, steps
from core.diffusion.solvers.levels import mixed
from core.diffusion.solvers.stepwise import Course, Stepwise, Walk


def _unipc(x: Tensor, course: Course, *, order: int) -> Walk:
    """Solve by UniPC of an order, one evaluation a step; the corrector adds one to the order in theory."""
    plan = steps(course.levels)
    orders = [_order(plan, number, order) for number in range(len(plan))]
    predictors = [_weights(plan, number, orders[number], corrects=False) for number in range(len(plan))]
    correctors = [
        _weights(plan, number, orders[number], corrects=True) if math.isfinite(step.h) else None
        for number, step in enumerate(plan)
    ]
    history: list[Tensor] = []
    last = x  # the corrected state from which the present one was predicted
    for number, step in enumerate(plan):
        estimate = yield x, step.here
        data = estimate.data
        if number and (factors := correctors[number - 1]) is not None:
            x = mixed((plan[number - 1].keep, last), *zip(factors, (data, *history), strict=False))
        history = [data, *history[: order - 1]]
        last = x
        x = mixed((step.keep, last), *zip(predictors[number], history, strict=False))
    return x


unipc_1, unipc_2, unipc_3 = (Stepwise(partial(_unipc, order=order)) for order in (1, 2, 3))


def _order(plan: Sequence[Step], number: int, order: int) -> int:
    """Return the order of a step: as many finite steps as there are in a row up to it, at most `order`."""
    if not math.isfinite(plan[number].h):
        return 1
    found = 1
    while found < order and number - found >= 0 and math.isfinite(plan[number - found].h):
        found += 1
    return found


def _weights(plan: Sequence[Step], number: int, order: int, *, corrects: bool) -> tuple[float, ...]:
    """Return the weights of the estimates, the newest first; with the one at the step's end if it corrects.

    Solves the order conditions of eq. 10 of the paper in float64; with one unknown they are 1/2, as there.
    """
    step = plan[number]
    if order == 1 and not corrects:
        return (step.take,)
    ratios, passed = [], 0.0
    for back in range(1, order):
        passed -= plan[number - back].h
        ratios.append(passed / step.h)
    if corrects:
        ratios.append(1.0)
    hh = -step.h
    scale = math.expm1(hh)
    if len(ratios) == 1:
        solved = [0.5]
    else:
        power, factorial, phi = hh, 1.0, scale / hh - 1
        wanted = []
        for place in range(1, len(ratios) + 1):
            wanted.append(phi * factorial / scale)
            factorial *= place + 1
            phi = phi / power - 1 / factorial
        matrix = torch.tensor(
            [[ratio**row for ratio in ratios] for row in range(len(ratios))], dtype=torch.float64
        )
        solved = torch.linalg.solve(matrix, torch.tensor(wanted, dtype=torch.float64)).tolist()
    shares = [-step.there.alpha * scale * part / ratio for part, ratio in zip(solved, ratios, strict=True)]
    at_end = shares.pop() if corrects else None
    older = tuple(shares)
    newest = step.take - sum(older) - (at_end or 0.0)
    return (newest, *older) if at_end is None else (at_end, newest, *older)
