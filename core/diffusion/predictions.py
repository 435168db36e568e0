"""The predictions a network may make, and how each of them gives data and noise.

Each prediction is p x_0 + q noise. With x_t = alpha x_0 + sigma noise that is a 2x2 linear system of
determinant alpha q - sigma p, so one formula serves all. alpha and sigma are floats or broadcast against
the tensors. `before` is the level one step nearer to data, (alpha, sigma), which posterior_mean alone needs.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from core.diffusion.paths.path import Path

Prediction = Literal["noise", "data", "v", "flow", "score", "posterior_mean", "edm"]
Level = Tensor | float
Before = tuple[Level, Level] | None


def target(
    kind: Prediction, x0: Tensor, noise: Tensor, alpha: Level, sigma: Level, before: Before = None
) -> Tensor:
    """Return the network's target for these data and this noise.

    noise: Ho et al., arXiv:2006.11239.  data: x0.  v: alpha noise - sigma x0 (Salimans and Ho, 2202.00512,
    appendix D).  flow: noise - x0 (2209.03003, eq. 1).  score: -noise / sigma, of log p(x_t | x0)
    (2011.13456).  posterior_mean: the mean of q(x_s | x_t, x0) one step s of the chain below t (2006.11239,
    eq. 7).  edm: (sigma x0 - alpha noise) / sqrt(alpha^2 + sigma^2), what the network of EDM is trained on
    for data of unit deviation (2206.00364, eq. 8); on a path of preserved variance it is -v.
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
        case "score":
            return -noise / sigma
    p, q = parts(kind, alpha, sigma, before)
    return p * x0 + q * noise


def to_data(
    kind: Prediction, output: Tensor, x_t: Tensor, alpha: Level, sigma: Level, before: Before = None
) -> Tensor:
    """Return the x0 that `output` at `x_t` stands for; of noise and score there is none where alpha = 0."""
    if kind == "data":
        return output
    if kind == "score":  # has a value where sigma = 0, which the general form has not
        return (x_t + sigma**2 * output) / alpha
    _, q = parts(kind, alpha, sigma, before)
    return (q * x_t - sigma * output) / determinant(kind, alpha, sigma, before)


def to_noise(
    kind: Prediction, output: Tensor, x_t: Tensor, alpha: Level, sigma: Level, before: Before = None
) -> Tensor:
    """Return the noise that `output` at `x_t` stands for; for data it does not exist where sigma = 0."""
    if kind == "noise":
        return output
    if kind == "score":
        return -sigma * output
    p, _ = parts(kind, alpha, sigma, before)
    return (alpha * output - p * x_t) / determinant(kind, alpha, sigma, before)


def shares(
    kind: Prediction,
    alpha: float,
    sigma: float,
    before: Before,
    wanted: tuple[float, float],
) -> tuple[float, float]:
    """Return the factors of x_t and of the output in a combination of data and noise.

    wanted: the factors of data and of noise in it. Where the determinant is 0 there are none: the error is
    ZeroDivisionError.
    """
    (p, q), (of_data, of_noise) = parts(kind, alpha, sigma, before), wanted
    determinant = alpha * q - sigma * p
    of_x, of_output = of_data * q - of_noise * p, of_noise * alpha - of_data * sigma
    return float(of_x / determinant), float(of_output / determinant)


def noise_beside(data: Tensor, x_t: Tensor, alpha: Level, sigma: Level) -> Tensor:
    """Return the noise of x_t beside its data; 0 where it has none, as frames at time 0."""
    if not isinstance(sigma, Tensor):
        return (x_t - alpha * data) / sigma
    is_noisy = sigma > 0
    return torch.where(is_noisy, (x_t - alpha * data) / torch.where(is_noisy, sigma, 1.0), 0.0)


def determinant(kind: Prediction, alpha: Level, sigma: Level, before: Before = None) -> Level:
    """Return alpha q - sigma p: an error e in the output is an error -sigma e / determinant in x0."""
    p, q = parts(kind, alpha, sigma, before)
    return alpha * q - sigma * p


def level_before(path: Path, t: Tensor) -> tuple[Tensor, Tensor]:
    """Return alpha and sigma one step of a chain below the times t, in float64."""
    assert path.num_steps is not None, path.name
    s = (t.double() - 1 / path.num_steps).clamp(min=0)
    return path.levels(s)


def parts(kind: Prediction, alpha: Level, sigma: Level, before: Before) -> tuple[Level, Level]:
    """Return p and q of the prediction p x0 + q noise: numbers, or in the shape of the levels."""
    match kind:
        case "noise":
            return 0.0, 1.0
        case "data":
            return 1.0, 0.0
        case "v":
            return -sigma, alpha
        case "flow":
            return -1.0, 1.0
        case "score":
            return 0.0, -1 / sigma if isinstance(sigma, Tensor) or sigma else -float("inf")
        case "edm":
            size = (alpha**2 + sigma**2) ** 0.5
            return sigma / size, -alpha / size
        case "posterior_mean":
            if before is None:
                raise ValueError("posterior_mean needs the level before")
            ratio = alpha / before[0]
            from_x = ratio * (before[1] / sigma) ** 2
            from_data = before[0] * (1 - (ratio * before[1] / sigma) ** 2)
            return from_x * alpha + from_data, from_x * sigma


def network_input(path: Path, x: Tensor, alpha: Level, sigma: Level) -> Tensor:
    """Return what the network sees of x_t: itself, or on paths of growing noise its unit form."""
    if not path.scales_input:
        return x
    return x / (alpha**2 + sigma**2) ** 0.5
