"""The ancestral sampler of a chain."""

from __future__ import annotations

import torch
from torch import Tensor

from core.diffusion.posterior import log_variance, posterior
from core.diffusion.solvers.levels import Options, mixed
from core.diffusion.solvers.stepwise import Course, Stepwise, Walk


@Stepwise
def ddpm(x: Tensor, course: Course) -> Walk:
    """Sample ancestrally: draw from q(x_s | x_t, x_0 = data) (Ho et al., arXiv:2006.11239, eq. 6-7).

    The variance is the network's where it predicts one (2102.09672, eq. 15), else the posterior's, that of
    the step forward, or one between them (`options.variance`). The last step adds no noise.
    """
    grid = torch.tensor(list(course.times), dtype=torch.float64)
    step = posterior(course.path, grid[:-1], grid[1:])
    from_x, from_data = step.from_x.tolist(), step.from_data.tolist()
    variance, transition = step.variance.tolist(), step.transition.tolist()
    for i, here, there in course.steps:
        estimate = yield x, here
        x = mixed((from_x[i], x), (from_data[i], estimate.data))
        if there.sigma == 0:
            continue
        if estimate.variance_fraction is None or course.options.variance != "auto":
            deviation = _chosen(variance[i], transition[i], course.options) ** 0.5
            x = mixed((1.0, x), (deviation, course.noise(i)))
        else:
            lower, upper = x.new_full((), variance[i]), x.new_full((), transition[i])
            fraction = estimate.variance_fraction
            x = torch.addcmul(x, torch.exp(log_variance(fraction, lower, upper) / 2), course.noise(i))
    return x


def _chosen(small: float, large: float, options: Options) -> float:
    """Return the variance of a step that the network does not choose."""
    if options.variance == "interpolated":
        return small ** (1 - options.variance_share) * large**options.variance_share
    return large if options.variance == "large" else small
