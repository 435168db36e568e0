"""The predictions a network may make, and how each of them gives data and noise.

Each prediction is p x_0 + q noise. With x_t = alpha x_0 + sigma noise that is a 2x2 linear system of
determinant alpha q - sigma p, so one formula serves all. alpha and sigma are floats or broadcast against
the tensors.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

Prediction = Literal["noise", "data", "v", "flow"]
Level = Tensor | float


def target(kind: Prediction, x0: Tensor, noise: Tensor, alpha: Level, sigma: Level) -> Tensor:
    """Return the network's target: noise, x0, alpha noise - sigma x0 (v), or noise - x0 (flow).

    noise: Ho et al., arXiv:2006.11239.  v: Salimans and Ho, 2202.00512, appendix D.  flow: 2209.03003, eq. 1.
    """
    match kind:
        case "noise":
            return noise
        case "data":
            return x0
        case "v":
            return alpha * noise - sigma * x0
        case "flow":
            return noise - x0


def to_data(kind: Prediction, output: Tensor, x_t: Tensor, alpha: Level, sigma: Level) -> Tensor:
    """Return the x0 that `output` at `x_t` stands for; for noise it does not exist where alpha = 0."""
    if kind == "data":
        return output
    _, q = _parts(kind, alpha, sigma)
    return (q * x_t - sigma * output) / determinant(kind, alpha, sigma)


def to_noise(kind: Prediction, output: Tensor, x_t: Tensor, alpha: Level, sigma: Level) -> Tensor:
    """Return the noise that `output` at `x_t` stands for; for data it does not exist where sigma = 0."""
    if kind == "noise":
        return output
    p, _ = _parts(kind, alpha, sigma)
    return (alpha * output - p * x_t) / determinant(kind, alpha, sigma)


def determinant(kind: Prediction, alpha: Level, sigma: Level) -> Level:
    """Return alpha q - sigma p: an error e in the output is an error -sigma e / determinant in x0."""
    p, q = _parts(kind, alpha, sigma)
    return alpha * q - sigma * p


def _parts(kind: Prediction, alpha: Level, sigma: Level) -> tuple[Level, Level]:
    """Return p and q of the prediction p x0 + q noise."""
    match kind:
        case "noise":
            return 0.0, 1.0
        case "data":
            return 1.0, 0.0
        case "v":
            return -sigma, alpha
        case "flow":
            return -1.0, 1.0
