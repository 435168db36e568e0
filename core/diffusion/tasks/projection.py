"""Keep what is known by projecting the estimated data onto it, with the covariance that the network implies.

Of x_t the data have the mean D(x_t), which the network estimates, and by Tweedie's second identity the
covariance V = (sigma^2 / alpha) dD/dx_t. Taken as Gaussian, they have given their known part y the mean

    D + V M' (M V M')^-1 (y - M D),    M: the known entries,

which takes the place of D, and the noise follows from x_t (moment matching posterior sampling, Rozet et al.,
arXiv:2405.13712; TMPD, arXiv:2310.06721, likewise). It is exact for Gaussian data of enough variance. The
system is solved by a few steps of conjugate gradients, each a product with V: a backward pass of the network.
Where V says that a known part can hardly vary, which guided networks say wrongly, the correction would be
divided by next to nothing, and samples would burst; it is left out there.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from core.diffusion.solvers.levels import Denoise, Estimate, Level
from core.errors import UserError

ITERATIONS = 3  # of conjugate gradients
LEAST = 0.1  # variance that is followed, of that which data of variance 1 have left


def projecting(denoise: Denoise, known: Tensor, kept: Tensor, iterations: int = ITERATIONS) -> Denoise:
    """Return estimates of data whose known part is as it should be, and whose rest fits it.

    known: (B, C, T, H, W).  kept: (B, 1, T, H, W), 1 where known.  Where there is no signal (alpha = 0) x_t
    says nothing of the covariance, and where there is no noise nothing is left to be found: there only the
    known part is replaced.
    """

    def projected(x: Tensor, level: Level) -> Estimate:
        if not isinstance(level.alpha, float):
            raise UserError("keep=projection has no form for samples or frames with levels of their own")
        if level.alpha == 0 or level.sigma == 0:
            found = denoise(x, level)
            data = kept * known + (1 - kept) * found.data
        else:
            with torch.enable_grad():
                moved = x.detach().requires_grad_()
                found = denoise(moved, level)
                estimated = found.data  # with its graph
            scale = level.sigma**2 / level.alpha

            def covariance(v: Tensor) -> Tensor:
                (product,) = torch.autograd.grad(estimated, moved, v.to(estimated.dtype), retain_graph=True)
                return scale * product

            data = estimated.detach()
            unit = level.sigma**2 / (level.alpha**2 + level.sigma**2)
            data = data + _correction(covariance, kept * (known - data), kept, iterations, LEAST * unit)
            data = kept * known + (1 - kept) * data
        fraction = found.variance_fraction
        noise = found.noise.detach() if level.sigma == 0 else (x - level.alpha * data) / level.sigma
        return Estimate(data, noise, None if fraction is None else fraction.detach())

    return projected


def _correction(
    covariance: Callable[[Tensor], Tensor], residual: Tensor, kept: Tensor, iterations: int, least: float
) -> Tensor:
    """Return V M' (M V M')^-1 r of each sample for a residual r, by conjugate gradients from 0.

    least: variance.  A sample whose residual is gone, or along whose direction V has less than the least
    variance or none (a network's need not be positive), stays as it is: a step would divide by it.
    """
    total, direction, left = torch.zeros_like(residual), residual, _dot(residual, residual)
    for _ in range(iterations):
        product = covariance(direction)
        curvature = _dot(direction, kept * product)
        is_followed = (curvature > least * _dot(direction, direction)) & (left > 0)
        step = torch.where(is_followed, left / curvature, torch.zeros_like(left))
        total = total + step * product
        residual = residual - step * (kept * product)
        after = _dot(residual, residual)
        ratio = torch.where((left > 0) & (step > 0), after / left, torch.zeros_like(left))
        direction, left = residual + ratio * direction, torch.where(step > 0, after, torch.zeros_like(left))
    return total


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Return the inner products of samples, (B, 1, 1, 1, 1)."""
    return (a * b).sum((1, 2, 3, 4), keepdim=True)
