"""Steps by average velocities, of networks that are told where a step ends."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from core.diffusion.solvers.ddim import ddim_step
from core.diffusion.solvers.levels import Level, TensorLevel
from core.diffusion.solvers.stepwise import Course, Stepwise, Walk


@Stepwise
def mean_flow(x: Tensor, course: Course) -> Walk:
    """Step by x_s = x_t - (t - s) u(x_t, s, t) (MeanFlow, 2505.13447, algorithm 2), one step or several.

    That is Euler's step on the straight path, with the average velocity over it for that at its start.
    """
    for number, here, there in course.steps:
        estimate = yield x, ending(here, there, x)
        x = ddim_step(estimate, here, there, 0.0, partial(course.noise, number))
    return x


def ending(here: Level, there: Level, x: Tensor) -> Level:
    """Return a level whose time input (B, 2) also tells the network where the step ends."""
    dtype = torch.promote_types(torch.float32, x.dtype)
    ends = (here.time_input, there.time_input)  # filled in on the device, which nothing waits for
    times = torch.stack([torch.full((len(x),), end, dtype=dtype, device=x.device) for end in ends], dim=1)
    return TensorLevel(here.t, here.alpha, here.sigma, times)
