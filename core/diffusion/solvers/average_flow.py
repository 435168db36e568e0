"""Steps by average velocities, of networks that are told where a step ends."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor

from core.diffusion.paths.path import Path
from core.diffusion.solvers.ddim import ddim_step
from core.diffusion.solvers.levels import DEFAULTS, Denoise, Level, Noise, Options, TensorLevel, levels


def mean_flow(
    denoise: Denoise,
    x: Tensor,
    times: Sequence[float],
    path: Path,
    *,
    noise: Noise,
    options: Options = DEFAULTS,
) -> Tensor:
    """Step by x_s = x_t - (t - s) u(x_t, s, t) (MeanFlow, 2505.13447, algorithm 2), one step or several.

    That is Euler's step on the straight path, with the average velocity over it for that at its start.
    """
    for number, (here, there) in enumerate(pairwise(levels(path, times))):
        estimate = denoise(x, ending(here, there, x))
        x = ddim_step(estimate, here, there, 0.0, partial(noise, number))
    return x


def ending(here: Level, there: Level, x: Tensor) -> Level:
    """Return a level whose time input (B, 2) also tells the network where the step ends."""
    dtype = torch.promote_types(torch.float32, x.dtype)
    times = torch.tensor([here.time_input, there.time_input], dtype=dtype, device=x.device)
    return TensorLevel(here.t, here.alpha, here.sigma, times.expand(len(x), 2))
