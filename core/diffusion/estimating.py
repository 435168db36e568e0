"""Turn the outputs of a guided network into the estimates of data and noise that a solver asks for."""

from __future__ import annotations

from functools import cached_property, partial

import torch
from torch import Tensor

from core.diffusion.guidance.branches import Guided, Mix
from core.diffusion.guidance.classifiers import ClassifierGuide
from core.diffusion.guidance.mixing import Guidance, Momentum
from core.diffusion.paths.path import Path
from core.diffusion.predictions import (
    Before,
    Prediction,
    determinant,
    level_before,
    network_input,
    noise_beside,
    shares,
    target,
    to_data,
    to_noise,
)
from core.diffusion.solvers.levels import Denoise, Estimate, Level, mixed
from core.diffusion.thresholds import ThresholdConfig, bounded


def estimating(
    guided: Guided,
    guidance: Guidance,
    threshold: ThresholdConfig,
    path: Path,
    prediction: Prediction,
    channels: int,
    *,
    learned_sigma: bool,
    classifier: ClassifierGuide | None = None,
    momentum: Momentum | None = None,
    still_above: float = float("inf"),
) -> Denoise:
    """Return the estimates that a solver asks for.

    channels: of the latents; those above are the network's variance, which counts where learned_sigma says
    that it was trained.  momentum: of the differences that guide.  still_above: at later times than this one
    nothing moves: data and noise are both x / (alpha + sigma), without the network.
    """

    def denoise(x: Tensor, level: Level) -> Estimate:
        if level.t > still_above:
            still = x / (level.alpha + level.sigma)
            return Estimate(still, still)
        before = _before(path, prediction, level)
        mix = None if guidance.is_linear else _mixing(guidance, prediction, x, level, before, momentum)
        seen = network_input(path, x, level.alpha, level.sigma)
        output = guided(seen, level.t, level.time_input, mix)
        variance_fraction = output[:, channels:] if learned_sigma else None
        estimate = estimated(prediction, output[:, :channels], x, level, before, variance_fraction)
        if classifier is not None:
            estimate = classifier.apply(estimate, x, level, path)
        if threshold.kind == "none":
            return estimate
        data = bounded(threshold, estimate.data)
        return Estimate(data, noise_beside(data, x, level.alpha, level.sigma), variance_fraction)

    return denoise


class Predicted(Estimate):
    """A network's output at x_t, at one level for all samples, from which solvers take what they need.

    Data, noise and every combination of them are a sum of x and the output, two passes over the state at
    most: of a predicted flow the slope is the output, and Euler's step on rectified flow takes one.
    """

    def __init__(
        self,
        prediction: Prediction,
        output: Tensor,
        x: Tensor,
        level: Level,
        before: Before,
        variance_fraction: Tensor | None,
    ) -> None:
        self._output, self._x = output, x
        self._factors = partial(shares, prediction, level.alpha, level.sigma, before)
        object.__setattr__(self, "variance_fraction", variance_fraction)

    def _combined(self, of_data: float, of_noise: float) -> Tensor:
        of_x, of_output = self._factors((of_data, of_noise))
        return mixed((of_x, self._x), (of_output, self._output))

    @cached_property
    def data(self) -> Tensor:
        return self._combined(1.0, 0.0)

    @cached_property
    def noise(self) -> Tensor:
        return self._combined(0.0, 1.0)

    @cached_property
    def slope(self) -> Tensor:
        return self._combined(-1.0, 1.0)

    @property
    def witness(self) -> Tensor:
        return self._output

    def at(self, level: Level) -> Tensor:
        return self._combined(level.alpha, level.sigma)


def estimated(
    prediction: Prediction,
    output: Tensor,
    x: Tensor,
    level: Level,
    before: Before,
    variance_fraction: Tensor | None = None,
) -> Estimate:
    """Return what an output at x stands for; without signal a predicted noise gives no finite data."""
    alpha, sigma = level.alpha, level.sigma
    if not isinstance(alpha, Tensor) and sigma > 0 and determinant(prediction, alpha, sigma, before) != 0:
        return Predicted(prediction, output, x, level, before, variance_fraction)
    coefficients = (prediction, output, x, alpha, sigma, before)
    return Estimate(to_data(*coefficients), to_noise(*coefficients), variance_fraction)


def _before(path: Path, prediction: Prediction, level: Level) -> Before:
    """Return the level one step of the chain below, for the prediction that needs it."""
    if prediction != "posterior_mean":
        return None
    alpha, sigma = level_before(path, torch.tensor([level.t], dtype=torch.float64))
    return float(alpha), float(sigma)


def _mixing(
    guidance: Guidance,
    prediction: Prediction,
    x: Tensor,
    level: Level,
    before: Before,
    momentum: Momentum | None,
) -> Mix:
    """Return how outputs at x are mixed, by the data that they stand for."""

    def from_data(data: Tensor) -> Tensor:
        noise = noise_beside(data, x, level.alpha, level.sigma)
        output = target(prediction, data, noise, level.alpha, level.sigma, before)
        if prediction == "score" and isinstance(level.sigma, Tensor):  # has no value at time 0
            output = torch.where(level.sigma > 0, output, 0.0)
        return output

    def as_data(output: Tensor) -> Tensor:
        return to_data(prediction, output, x, level.alpha, level.sigma, before)

    advance = None if momentum is None else partial(momentum.advance, t=level.t)
    return lambda outputs, contrasts: guidance.mix(outputs, contrasts, as_data, from_data, advance)
