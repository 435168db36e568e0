"""Muon's direction for one matrix: momentum made orthogonal by Newton-Schulz iterations.

The kernel of a convolution counts as a matrix.

After Keller Jordan et al. 2024 (https://kellerjordan.github.io/posts/muon/), with the scale of Liu et al.
2025 (arXiv:2502.16982, eq. 4), under which the learning rate and the weight decay of AdamW serve both.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5
SMALLEST_NORM = 1e-7


def newton_schulz(matrix: Tensor) -> Tensor:
    """Return a matrix with the singular vectors of `matrix` and singular values of about 1 (0.7 to 1.2).

    matrix: (rows, columns), bf16 or fp32, in which all is computed.
    """
    a, b, c = COEFFICIENTS
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / x.norm().clamp(min=SMALLEST_NORM)
    for _ in range(ITERATIONS):
        gram = x @ x.T
        polynomial = torch.addmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.addmm(x, polynomial, x, beta=a)
    return x.T if tall else x


def matrix_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    """Return a parameter's shape as a matrix: a kernel (outputs, inputs, ...) has a column for each number
    that an output sees."""
    return shape[0], math.prod(shape[1:])


def rate_scale(shape: tuple[int, ...]) -> float:
    """Return the factor on a matrix's learning rate that makes its update as large as AdamW's usual one
    (a root mean square of about 0.2)."""
    return 0.2 * math.sqrt(max(matrix_shape(shape)))
