"""Loss weights: how much an error of the network counts at each level of noise.

An error e of a prediction of determinant d is an error -sigma e / d in the data and alpha e / d in the noise
(`core.diffusion.predictions`). So a loss in the space of one prediction is that of another times a weight,
and a weighting is the same for all predictions once it is stated for the noise or for the data.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from core.diffusion.paths.path import Path
from core.diffusion.predictions import Before, Prediction, determinant, level_before

Weighting = Literal["uniform", "min_snr", "p2", "edm", "sigmoid", "learned"]
SPACED: tuple[Weighting, ...] = ("uniform", "learned")
"""Those whose loss is taken in the space of any prediction; that of `learned` then divides it by its size."""
LossSpace = Literal["", "noise", "data", "v", "flow", "score", "posterior_mean", "edm"]


def space_weight(
    prediction: Prediction, space: Prediction, alpha: Tensor, sigma: Tensor, before: Before = None
) -> Tensor:
    """Return the (B,) weight with which the squared error of a prediction is that of another.

    It is infinite where the prediction's own determinant is 0. To predict the data and take the loss in v or
    flow is JiT, 2511.13720.
    """
    other, own = (determinant(kind, alpha, sigma, before) for kind in (space, prediction))
    return (torch.as_tensor(other, dtype=alpha.dtype) / own).square().expand_as(alpha)


def output_weight(
    kind: Weighting,
    parameter: float,
    prediction: Prediction,
    alpha: Tensor,
    sigma: Tensor,
    before: Before = None,
) -> Tensor:
    """Return the (B,) weight of the squared error of the output, in the dtype of alpha.

    parameter: gamma of min_snr and p2, the deviation of the data of edm, the bias of sigmoid.
    """
    if prediction == "noise":  # has a value where alpha = 0
        return _NOISE[kind](parameter, alpha, sigma)
    own = torch.as_tensor(determinant(prediction, alpha, sigma, before), dtype=alpha.dtype)
    in_noise, in_data = alpha / own, sigma / own
    if kind in _DATA:
        return _DATA[kind](parameter, alpha, sigma) * in_data.square()
    return _NOISE[kind](parameter, alpha, sigma) * in_noise.square()


def most_weight(prediction: Prediction, alpha: Tensor, sigma: Tensor, before: Before = None) -> Tensor:
    """Return the (B,) largest weight of the squared error of a prediction.

    It is MOST for targets of about unit size. Those of score and posterior_mean are as small or large as the
    noise of a step: for them it is MOST in the space of edm, whose targets are of unit size.
    """
    if prediction in ("score", "posterior_mean"):
        return MOST * space_weight(prediction, "edm", alpha, sigma, before)
    return torch.full_like(alpha, MOST)


def training_weight(
    kind: Weighting, parameter: float, prediction: Prediction, space: Prediction, path: Path, t: Tensor
) -> Tensor | None:
    """Return the float32 weight of the squared error of an output at times t, in their shape; None for 1.

    space: whose error is squared, of those in SPACED alone.
    """
    if kind in SPACED and space == prediction:
        return None
    alpha, sigma = path.levels(t.double())
    before = level_before(path, t) if "posterior_mean" in (prediction, space) else None
    most = most_weight(prediction, alpha, sigma, before)
    if kind in SPACED:
        return space_weight(prediction, space, alpha, sigma, before).clamp(max=most).float()
    weight = output_weight(kind, parameter, prediction, alpha, sigma, before)
    return (weight if kind == "min_snr" else weight.clamp(max=most)).float()


def _min_snr_data(gamma: float, alpha: Tensor, sigma: Tensor) -> Tensor:
    """Return min(SNR, gamma) (2303.09556, eq. 5)."""
    return (alpha / sigma).square().clamp(max=gamma)


def _min_snr_noise(gamma: float, alpha: Tensor, sigma: Tensor) -> Tensor:
    """Return min(SNR, gamma) / SNR, written so that SNR = 0 has a value."""
    return (gamma / (alpha / sigma).square()).clamp(max=1)


def _p2_noise(gamma: float, alpha: Tensor, sigma: Tensor) -> Tensor:
    """Return 1 / (1 + SNR)^gamma (P2, 2204.00227, eq. 8, with k = 1)."""
    return (1 + (alpha / sigma).square()) ** -gamma


def _edm_data(deviation: float, alpha: Tensor, sigma: Tensor) -> Tensor:
    """Return (s^2 + d^2) / (s d)^2 with s = sigma / alpha, for data of deviation d (2206.00364, table 1)."""
    return deviation**-2 + (alpha / sigma).square()


def _edm_noise(deviation: float, alpha: Tensor, sigma: Tensor) -> Tensor:
    return 1 + (sigma / (alpha * deviation)).square()


def _sigmoid_noise(bias: float, alpha: Tensor, sigma: Tensor) -> Tensor:
    """Return sigmoid(bias - log SNR) (2303.00848; 2410.19324, eq. 3)."""
    return torch.sigmoid(bias - 2 * (alpha.log() - sigma.log()))


MOST = 400.0
"""Of a weight in training: at the ends of a path some have no bound, and one sample would outweigh all.
JiT's limit, 1 / 0.05^2; min_snr has a limit of its own."""
_Weight = Callable[[float, Tensor, Tensor], Tensor]
_DATA: dict[str, _Weight] = {"min_snr": _min_snr_data, "edm": _edm_data}
"""Those that are stated for errors of the data, and are finite where the signal is."""
_NOISE: dict[str, _Weight] = {
    "min_snr": _min_snr_noise,
    "p2": _p2_noise,
    "edm": _edm_noise,
    "sigmoid": _sigmoid_noise,
}
