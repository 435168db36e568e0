"""One step back along a path, q(x_s | x_t, x_0) with s < t, and the bound that trains its variance."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from einops import rearrange, reduce
from torch import Tensor

from core.diffusion.paths.path import Path

PIXEL_BIN = 1 / 255  # half of the distance of two 8-bit values in [-1, 1]


@dataclass(frozen=True)
class Posterior:
    """The Gaussian q(x_s | x_t, x_0) = N(from_x x_t + from_data x_0, variance) (2107.00630, eq. 25-28).

    transition: the variance of q(x_t | x_s), the upper limit of a learned variance; `variance` is the lower.
    Each (B,), float64; variance is 0 where s = 0.
    """

    from_x: Tensor
    from_data: Tensor
    variance: Tensor
    transition: Tensor


def posterior(path: Path, t: Tensor, s: Tensor) -> Posterior:
    """Return the posterior of the step from t to s < t, both (B,) in [0, 1], on any path of falling SNR."""
    t, s = t.double(), s.double()
    (alpha_t, sigma_t), (alpha_s, sigma_s) = path.levels(t), path.levels(s)
    sigma_t2, sigma_s2 = sigma_t**2, sigma_s**2
    ratio = alpha_t / alpha_s
    transition = sigma_t2 - ratio**2 * sigma_s2
    return Posterior(
        ratio * sigma_s2 / sigma_t2,
        alpha_s * transition / sigma_t2,
        transition * sigma_s2 / sigma_t2,
        transition,
    )


def log_variance(variance_fraction: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    """Interpolate in the log domain by a network's output: -1 is lower, 1 upper (2102.09672, eq. 15)."""
    weight = (variance_fraction + 1) / 2
    return weight * upper.log() + (1 - weight) * lower.log()


def bound_bits(
    path: Path, t: Tensor, x0: Tensor, x_t: Tensor, data: Tensor, variance_fraction: Tensor
) -> Tensor:
    """Return the term of the variational bound at grid time t, in bits per dimension, (B,) float32.

    x0, x_t, data (the network's x0), variance_fraction (its variance output): (B, C, T, H, W).
    KL(q || p) at i > 0; at i = 0 the log-likelihood of x0 in bins of 8-bit pixels, which the published models
    apply to latents too (Ho et al. 2020, section 3.3; Nichol and Dhariwal 2021, section 2.1).
    """
    if path.num_steps is None:
        raise ValueError(f"the bound needs a chain of steps, which {path.name} is not")
    step = 1 / path.num_steps
    first = t.double() < 1.5 * step
    back = posterior(path, t, (t.double() - step).clamp(min=0))
    # At i = 0 the posterior variance is 0; the next one stands in for it (2006.11239's code, 2102.09672).
    second = torch.full_like(t, 2 * step)
    lower = torch.where(first, posterior(path, second, second - step).variance, back.variance)
    from_x, from_data, lower, upper = map(_wide, (back.from_x, back.from_data, lower, back.transition))
    mean = from_x * x_t + from_data * data
    log_var = log_variance(variance_fraction, lower, upper)
    true_mean = from_x * x_t + from_data * x0
    divergence = normal_divergence(true_mean, lower.log(), mean, log_var)
    likelihood = -binned_log_likelihood(x0, mean, log_var / 2)
    nats = torch.where(_wide(first) > 0, likelihood, divergence)
    return reduce(nats, "b c t h w -> b", "mean") / math.log(2)


def normal_divergence(mean_q: Tensor, log_var_q: Tensor, mean_p: Tensor, log_var_p: Tensor) -> Tensor:
    """Return KL(q || p) of Gaussians, element by element, in nats."""
    scaled = torch.exp(log_var_q - log_var_p) + (mean_q - mean_p) ** 2 * torch.exp(-log_var_p)
    return (log_var_p - log_var_q - 1 + scaled) / 2


def binned_log_likelihood(x: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """Return a Gaussian's log-probability of the 8-bit bin around x; outermost bins reach to infinity."""
    inverse = torch.exp(-log_std)
    above, below = (x - mean + PIXEL_BIN) * inverse, (x - mean - PIXEL_BIN) * inverse
    inside = (torch.special.ndtr(above) - torch.special.ndtr(below)).clamp(min=1e-12).log()
    upper_tail = torch.special.log_ndtr(-below)
    return torch.where(x < -0.999, torch.special.log_ndtr(above), torch.where(x > 0.999, upper_tail, inside))


def _wide(value: Tensor) -> Tensor:
    return rearrange(value.float(), "b -> b 1 1 1 1")
