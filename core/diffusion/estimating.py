"""From a guided network to what a solver asks for: estimates of data and noise at a level."""

from __future__ import annotations

import torch
from torch import Tensor

from core.diffusion.guidance import Guidance, Guided, Mix
from core.diffusion.paths.path import Path
from core.diffusion.predictions import (
    Before,
    Prediction,
    level_before,
    network_input,
    target,
    to_data,
    to_noise,
)
from core.diffusion.solvers.levels import Denoise, Estimate, Level
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
) -> Denoise:
    """Return the estimates that a solver asks for.

    channels: of the latents; those above are the network's variance, which counts where learned_sigma says
    that it was trained.
    """

    def denoise(x: Tensor, level: Level) -> Estimate:
        before = _before(path, prediction, level)
        mix = None if guidance.is_linear else _mixing(guidance, prediction, x, level, before)
        seen = network_input(path, x, level.alpha, level.sigma)
        output = guided(seen, level.t, level.time_input, mix)
        variance_fraction = output[:, channels:] if learned_sigma else None
        coefficients = (x, level.alpha, level.sigma, before)
        output = output[:, :channels]
        data = to_data(prediction, output, *coefficients)
        if threshold.kind == "none":
            return Estimate(data, to_noise(prediction, output, *coefficients), variance_fraction)
        data = bounded(threshold, data)
        return Estimate(data, (x - level.alpha * data) / level.sigma, variance_fraction)

    return denoise


def _before(path: Path, prediction: Prediction, level: Level) -> Before:
    """Return the level one step of the chain below, for the prediction that needs it."""
    if prediction != "posterior_mean":
        return None
    alpha, sigma = level_before(path, torch.tensor([level.t], dtype=torch.float64))
    return float(alpha), float(sigma)


def _mixing(guidance: Guidance, prediction: Prediction, x: Tensor, level: Level, before: Before) -> Mix:
    """Return how outputs at x are mixed, by the data that they stand for."""

    def from_data(data: Tensor) -> Tensor:
        noise = (x - level.alpha * data) / level.sigma
        return target(prediction, data, noise, level.alpha, level.sigma, before)

    def as_data(output: Tensor) -> Tensor:
        return to_data(prediction, output, x, level.alpha, level.sigma, before)

    return lambda given, none: guidance.mix(given, none, as_data, from_data)
