"""The training objective: path x prediction x weighting x distribution of times."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from einops import rearrange, reduce
from torch import Tensor

from core.batch import Condition
from core.config.settings import setting
from core.diffusion import predictions, timesteps
from core.diffusion.paths import PathName, make_path
from core.diffusion.posterior import bound_bits
from core.diffusion.predictions import Prediction
from core.diffusion.timesteps import TimestepConfig
from core.draws import Draws
from core.errors import UserError
from core.losses import Losses

Model = Callable[[Tensor, Tensor, Condition], Tensor]


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    path: PathName = setting("rectified_flow", "how data turns into noise")
    prediction: Prediction = setting("flow", "what the network predicts")
    timesteps: TimestepConfig = setting(TimestepConfig(), "which times are trained")
    weighting: Literal["uniform", "min_snr"] = setting("uniform", "weight of a time's squared error")
    min_snr_gamma: float = setting(
        5.0, "min_snr: the signal-to-noise ratio above which x0 errors weigh the same"
    )
    label_dropout: float = setting(0.1, "share of samples trained without label and text", low=0, high=1)
    given_frames: float = setting(
        0.5,
        "share of clips trained with their first frames given, where the model takes frames",
        low=0,
        high=1,
    )
    learned_sigma: bool = setting(False, "also train the variance of a step back, which the model predicts")
    bound_weight: float = setting(0.001, "learned_sigma: weight of the whole variational bound", low=0)

    def __post_init__(self) -> None:
        if self.learned_sigma and (self.prediction != "noise" or make_path(self.path).num_steps is None):
            raise UserError("learned_sigma", True, "false unless path is a ddpm one and prediction=noise")
        if self.min_snr_gamma <= 0:
            raise UserError("min_snr_gamma", self.min_snr_gamma, "a number above 0")


@dataclass(frozen=True)
class Noised:
    """What a network is shown of clean data, and what it should answer: a function of data and draws alone.

    x0, x_t, target: (B, C, T, H, W) float32.  time: (B,) in [0, 1], and time_input, what the network is told
    instead.  alpha, sigma: the path's levels, (B, 1, 1, 1, 1).  weight: (B,) of the squared error; None is 1.
    """

    x0: Tensor
    x_t: Tensor
    target: Tensor
    time: Tensor
    time_input: Tensor
    alpha: Tensor
    sigma: Tensor
    weight: Tensor | None
    condition: Condition


class Objective:
    """The loss of a denoiser on clean data; every random number in it is keyed by the sample.

    frame_condition: whether the model takes given frames; then every sample brings a mask, perhaps of zeros.
    """

    def __init__(self, config: ObjectiveConfig, *, frame_condition: bool = False) -> None:
        self.config, self.path, self.frame_condition = config, make_path(config.path), frame_condition

    def loss(self, model: Model, x0: Tensor, condition: Condition, draws: Draws) -> Losses:
        """Mean weighted squared error per sample.

        x0: (B, C, T, H, W) float32.  model(x_t, time_input, condition) -> (B, C or 2C, T, H, W); the upper
        half is the variance, and goes unused where that is not trained.
        """
        return self.loss_of(model, self.noised(x0, condition, draws))

    def noised(self, x0: Tensor, condition: Condition, draws: Draws) -> Noised:
        """All of `loss` that comes before the network."""
        config, path = self.config, self.path
        condition = drop_condition(condition, draws.uniform("condition_dropout") < config.label_dropout)
        if self.frame_condition:
            condition = give_first_frames(condition, x0, draws, config.given_frames)
        t = timesteps.draw(config.timesteps, path, draws.uniform("time"))
        noise = draws.normal("noise", tuple(x0.shape[1:]))
        alpha, sigma = (rearrange(level(t), "b -> b 1 1 1 1") for level in (path.alpha, path.sigma))
        target = predictions.target(config.prediction, x0, noise, alpha, sigma)
        x_t = alpha * x0 + sigma * noise
        return Noised(x0, x_t, target, t, path.time_input(t), alpha, sigma, self._weight(t), condition)

    def loss_of(self, model: Model, noised: Noised) -> Losses:
        """All of `loss` from the network on."""
        config, t = self.config, noised.time
        output = model(noised.x_t, noised.time_input, noised.condition)
        fraction: Tensor | None = None
        if output.shape[1] == 2 * noised.x0.shape[1]:
            output, variance = output.chunk(2, dim=1)
            fraction = variance if config.learned_sigma else None
        elif config.learned_sigma:
            raise UserError("learned_sigma", True, "false for a model that predicts no variance")
        error = squared_error(output, noised.target)  # in float32, as the target is
        squared = _mean_over_unknown(error, noised.condition.frame_mask)
        if noised.weight is not None:
            squared = squared * noised.weight
        if fraction is None:
            return Losses(loss=squared, time=t)
        # The bound trains the variance alone: its gradient must not reach the mean (2102.09672, section 3.1).
        data = predictions.to_data("noise", output.detach().float(), noised.x_t, noised.alpha, noised.sigma)
        bits = bound_bits(self.path, t, noised.x0, noised.x_t, data, fraction.float())
        # A sum over the chain, estimated from one of its terms.
        scale = config.bound_weight * (self.path.num_steps or 0)
        return Losses(
            loss=squared + scale * bits, time=t, extras={"squared_error": squared, "bound_bits": bits}
        )

    def _weight(self, t: Tensor) -> Tensor | None:
        """(B,) weight of the squared error, None for 1.

        min_snr: min(SNR, gamma) for the error of x0 (2303.09556, eq. 5).
        """
        if self.config.weighting == "uniform":
            return None
        alpha, sigma = self.path.alpha(t.double()), self.path.sigma(t.double())
        snr = (alpha / sigma) ** 2
        if self.config.prediction == "noise":  # min(SNR, gamma) / SNR, written so that SNR = 0 has a value
            return (self.config.min_snr_gamma / snr).clamp(max=1).float()
        per_output = (sigma / predictions.determinant(self.config.prediction, alpha, sigma)) ** 2
        return (snr.clamp(max=self.config.min_snr_gamma) * per_output).float()


def squared_error(output: Tensor, target: Tensor) -> Tensor:
    """(output - target)^2 of equal shapes, elementwise: one operation forward, and one backward."""
    return torch.nn.functional.mse_loss(output, target, reduction="none")


def drop_condition(condition: Condition, dropped: Tensor) -> Condition:
    """Take label and text from the samples where `dropped` (B,) is true: label -1, text of length 0."""
    label, length = condition.label, condition.text_length
    if condition.text is not None and length is None:
        length = torch.full_like(dropped, condition.text.shape[1], dtype=torch.int64)
    return replace(
        condition,
        label=None if label is None else label.masked_fill(dropped, -1),
        text_length=None if length is None else length.masked_fill(dropped, 0),
    )


def give_first_frames(condition: Condition, x0: Tensor, draws: Draws, share: float) -> Condition:
    """Give `share` of the clips their first 1 to T-1 latent frames (uniformly); the rest get none."""
    frames = x0.shape[2]
    given, count = draws.uniform("given_frames", (2,)).unbind(1)
    known = torch.where(given < share, 1 + torch.floor(count * (frames - 1)), 0).clamp(max=frames - 1)
    mask = (torch.arange(frames, device=x0.device) < rearrange(known, "b -> b 1")).float()
    return replace(condition, frame_mask=mask, frame_latents=x0 * rearrange(mask, "b t -> b 1 t 1 1"))


def _mean_over_unknown(error: Tensor, frame_mask: Tensor | None) -> Tensor:
    """(B,) mean of (B, C, T, H, W) over everything but the frames that were given."""
    if frame_mask is None:
        return error.mean((1, 2, 3, 4))
    unknown = 1 - frame_mask
    return (reduce(error, "b c t h w -> b t", "mean") * unknown).sum(1) / unknown.sum(1)
