"""The likelihood of data under the flow of a network, and the variational bound of a chain of its steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from core.diffusion.paths.path import Path
from core.diffusion.posterior import log_variance, normal_divergence, posterior
from core.diffusion.solvers.adaptive import LAST, integrate, level_of
from core.diffusion.solvers.levels import Denoise, Level, Noise, levels_at

MOST_EXACT = 64  # numbers of a sample whose trace is summed exactly


@dataclass(frozen=True)
class Likelihood:
    """log p(data) in nats (B,), and the steps that each sample took (B,)."""

    log_density: Tensor
    steps: Tensor


def log_likelihood(
    denoise: Denoise,
    x0: Tensor,
    path: Path,
    *,
    probe: Tensor | None = None,
    tolerance: float = 1e-5,
    most: int = 1000,
) -> Likelihood:
    """Return log p(x0) of the probability flow (2011.13456, section D.2), in the dtype of x0.

    In z = x / (alpha + sigma) and r, the share of noise, log p(z) changes by minus the divergence of
    dz/dr = noise - data; the flow runs from the end level to t = 1, where p is a normal of the deviation that
    samples start with. x0 enters at the end level as alpha x0 without noise, and alpha^D counts: what is
    neglected is sigma^2 there, of 1e-6 on continuous paths, and beta_1 on a chain.
    denoise: differentiable.  probe: (B, ...) of signs, by which the trace is estimated (Hutchinson's, one
    probe for the whole flow, 1810.01367); None sums it exactly, with an evaluation's gradient a number.
    tolerance: of a step's estimated error, of z and of log p alike.
    """
    end, start = levels_at(path, [path.first or LAST, 1.0])
    size, numbers = len(x0), x0[0].numel()
    z = (end.alpha / (end.alpha + end.sigma) * x0).reshape(size, -1)

    def slope(y: Tensor, r: Tensor) -> Tensor:
        level = level_of(path, r, x0.ndim)
        with torch.enable_grad():
            z = y[:, :-1].detach().requires_grad_()
            estimate = denoise(z.reshape(x0.shape) * (level.alpha + level.sigma), level)
            moved = (estimate.noise - estimate.data).reshape(size, -1)
            return torch.cat([moved.detach(), _divergence(moved, z, probe)[:, None]], 1).to(y.dtype)

    y, steps = integrate(
        slope, torch.cat([z, z.new_zeros(size, 1)], 1), end.straight, start.straight, tolerance, most
    )
    ratio = (start.alpha + start.sigma) / math.hypot(start.alpha, start.sigma)
    prior = -0.5 * (y[:, :-1] * ratio).square().sum(1) + numbers * (
        math.log(ratio) - 0.5 * math.log(2 * math.pi)
    )
    change = numbers * math.log(end.alpha / (end.alpha + end.sigma))
    return Likelihood(prior + y[:, -1] + change, torch.stack(steps.accepted).sum(0))


def _divergence(moved: Tensor, z: Tensor, probe: Tensor | None) -> Tensor:
    """Return the trace (B,) of the derivative of `moved` (B, D) by z, or its estimate by a probe."""
    if probe is not None:
        signs = probe.reshape(z.shape).to(z.dtype)
        (gradient,) = torch.autograd.grad((moved * signs).sum(), z)
        return (gradient * signs).sum(1)
    total = z.new_zeros(len(z))
    for number in range(z.shape[1]):
        keeps = number + 1 < z.shape[1]
        (gradient,) = torch.autograd.grad(moved[:, number].sum(), z, retain_graph=keeps)
        total = total + gradient[:, number]
    return total


@dataclass(frozen=True)
class Bound:
    """Parts of -log p(x0) <= prior + steps + last in nats, (B,) each, of one draw of noise a level.

    prior: KL(q(x_1 | x0) || the normal that samples start from).  steps: the sum of KL(q(x_s | x_t, x0) ||
    p(x_s | x_t)) over the grid.  last: -log p(x0 | x_t) at the lowest level.
    """

    prior: Tensor
    steps: Tensor
    last: Tensor

    @property
    def total(self) -> Tensor:
        return self.prior + self.steps + self.last


def variational_bound(
    denoise: Denoise, x0: Tensor, times: Sequence[float], path: Path, *, noise: Noise
) -> Bound:
    """Return the bound of the ancestral sampler on a grid (2006.11239, eq. 5), in the dtype of x0.

    times: falling; 0 at the end is left out, since data are continuous: the last level decodes by the normal
    of mean x_t / alpha and deviation sigma / alpha, that of data of which x_t tells all that is known.
    A step has the posterior's variance, or the one that the network learned.  noise: of the number of a time.
    """
    levels = levels_at(path, [time for time in times if time > 0])
    prior = _prior(x0, levels[0])
    steps = x0.new_zeros(len(x0))
    grid = torch.tensor([level.t for level in levels], dtype=torch.float64)
    back = posterior(path, grid[:-1], grid[1:])
    for number, (here, _) in enumerate(pairwise(levels)):
        drawn = noise(number).to(x0.dtype)
        x = here.alpha * x0 + here.sigma * drawn
        estimate = denoise(x, here)
        # The same difference twice: where there is little noise, that of the data is lost in their digits.
        if here.sigma < here.alpha:
            missed = here.sigma / here.alpha * (estimate.noise - drawn)
        else:
            missed = x0 - estimate.data
        apart = float(back.from_data[number]) * missed
        lower = x0.new_tensor(float(back.variance[number]))
        variance = lower.log()
        if estimate.variance_fraction is not None:
            upper = x0.new_tensor(float(back.transition[number]))
            variance = log_variance(estimate.variance_fraction.to(x0.dtype), lower, upper)
        divergence = normal_divergence(apart, lower.log(), torch.zeros_like(apart), variance)
        steps = steps + divergence.expand(x0.shape).reshape(len(x0), -1).sum(1)
    drawn, end = noise(len(levels) - 1).to(x0.dtype), levels[-1]
    spread = math.log(end.sigma / end.alpha) + 0.5 * math.log(2 * math.pi)
    last = (0.5 * drawn.square() + spread).reshape(len(x0), -1).sum(1)
    return Bound(prior, steps, last)


def _prior(x0: Tensor, level: Level) -> Tensor:
    """Return KL(N(alpha x0, sigma^2) || N(0, alpha^2 + sigma^2)) (B,), of data of unit variance."""
    variance = level.alpha**2 + level.sigma**2
    numbers = x0[0].numel()
    apart = (level.alpha * x0).reshape(len(x0), -1).square().sum(1) / variance
    return 0.5 * (apart + numbers * (level.sigma**2 / variance - 1 - math.log(level.sigma**2 / variance)))
