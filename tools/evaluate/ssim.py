"""The structural similarity of two pictures (Wang et al. 2004)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

SIDE, SIGMA = 11, 1.5  # of the Gaussian window
C1, C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Return the mean similarity (N,) of pictures (N, H, W, 3) uint8, over channels and windows within.

    Windows are Gaussian, 11x11 with sigma 1.5, and weigh to 1 (no correction for few samples); pictures need
    11 pixels a side.
    """
    x, y = (each.double().permute(0, 3, 1, 2) for each in (a, b))
    mean_x, mean_y = _blurred(x), _blurred(y)
    var_x, var_y = _blurred(x * x) - mean_x**2, _blurred(y * y) - mean_y**2
    both = _blurred(x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + C1) / (mean_x**2 + mean_y**2 + C1)
    structure = (2 * both + C2) / (var_x + var_y + C2)
    return (luminance * structure).mean((1, 2, 3))


def _blurred(x: Tensor) -> Tensor:
    place = torch.arange(SIDE, dtype=x.dtype, device=x.device) - SIDE // 2
    window = (-place.square() / (2 * SIGMA**2)).exp()
    window = window / window.sum()
    channels = x.shape[1]
    down = functional.conv2d(x, window.view(1, 1, -1, 1).expand(channels, 1, -1, 1), groups=channels)
    return functional.conv2d(down, window.view(1, 1, 1, -1).expand(channels, 1, 1, -1), groups=channels)
