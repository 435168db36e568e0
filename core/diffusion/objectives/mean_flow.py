"""Average velocities over whole steps, by which a network samples in one to four of them (MeanFlow).

Geng et al. 2025, 2505.13447. On the straight path the average u(x, r, t) of the velocity over a step from t
down to r obeys u = v - (t - r) du/dt along the flow (eq. 6). The network is trained to be the right-hand
side, with the velocity of the sample for v, and without a gradient through du/dt.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from core.config.settings import setting
from core.diffusion.frames.training_levels import mean_over_unknown, wide
from core.diffusion.objectives.noised import Model, NoisyBatch, squared_error
from core.diffusion.objectives.shown_tokens import Showing
from core.diffusion.paths.path import Path
from core.draws import Draws
from core.losses import Losses

Derivative = Literal["jvp", "difference"]
DERIVATIVE_PASSES: dict[Derivative, int] = {"jvp": 2, "difference": 4}
"""What a derivative costs beside the network's output, in forward passes.

Torch differentiates a product of two by two products, also where one of them, a weight, does not move.
"""


@dataclass(frozen=True, kw_only=True)
class MeanFlowConfig:
    """Settings of the objective `mean_flow`."""

    instant_share: float = setting(
        0.75,
        "share of samples whose interval has length 0, which trains the instantaneous velocity",
        low=0,
        high=1,
    )
    power: float = setting(
        1.0, "p in the weight of a sample, 1 / (squared error + small)^p; 0 is the plain squared error", low=0
    )
    small: float = setting(1e-3, "constant added to the squared error in that weight", low=1e-12)
    derivative: Derivative = setting(
        "jvp",
        "derivative of the network along the flow. jvp: exact; needs model.attention=math, a ZeRO stage "
        "of at most 2 and no activation checkpointing. difference: from four more evaluations; needs fp32"
        " throughout",
    )
    stride: float = setting(
        0.00025,
        "difference: step in time; 0.002 is better for a model.time_scale of 0.1 or less",
        low=1e-6,
        high=0.1,
    )


def step_times(config: MeanFlowConfig, t: Tensor, other: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
    """Return the times (B,) at which a step begins and ends, of two draws of one distribution."""
    start, end = torch.maximum(t, other), torch.minimum(t, other)
    return start, torch.where(draws.uniform("instant") < config.instant_share, start, end)


def mean_flow_loss(model: Model, noised: NoisyBatch, path: Path, config: MeanFlowConfig) -> Losses:
    """Return the loss of every sample.

    noised.target is the velocity noise - x0, and the model takes times (B, 2): where a step begins and ends.
    """
    assert noised.end is not None
    if config.derivative == "jvp":
        output, slope = jvp(model, noised, noised.end, path)
    else:
        output, slope = difference(model, noised, noised.end, path, config.stride)
    output = output[:, : noised.x0.shape[1]]
    length = wide(noised.time - noised.end)
    wanted = noised.target - length * slope.detach()[:, : noised.x0.shape[1]]
    squared = mean_over_unknown(squared_error(output, wanted), noised.condition.frame_mask)
    if not config.power:
        return Losses(squared, noised.time)
    weight = (squared.detach() + config.small) ** -config.power
    return Losses(squared * weight, noised.time, {"squared_error": squared})


def jvp(model: Model, noised: NoisyBatch, end: Tensor, path: Path) -> tuple[Tensor, Tensor]:
    """Return the network's output, and its derivative along the flow by forward differentiation."""
    t = noised.time
    rate = torch.func.jvp(path.time_input, (t,), (torch.ones_like(t),))[1]
    times = torch.stack([noised.time_input, path.time_input(end)], 1)
    rates = torch.stack([rate, torch.zeros_like(rate)], 1)
    shown = model if isinstance(model, Showing) else None

    def predict(x: Tensor, at: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        output = model(x, at, noised.condition)
        return output, (shown.tokens,) if shown else ()

    inputs, tangents = (noised.x_t, times), (noised.target, rates)
    output, slope, *tokens = torch.func.jvp(predict, inputs, tangents, has_aux=True)
    if shown:
        ((shown.tokens,),) = tokens  # as they are outside of the derivative
    return output, slope


def difference(
    model: Model, noised: NoisyBatch, end: Tensor, path: Path, stride: float
) -> tuple[Tensor, Tensor]:
    """Return the same by the central difference of fourth order, (8 (f1 - f-1) - (f2 - f-2)) / 12 h."""

    def at(shift: float) -> Tensor:
        t = noised.time + shift
        times = torch.stack([path.time_input(t), path.time_input(end)], 1)
        return model(noised.x_t + shift * noised.target, times, noised.condition)

    with torch.no_grad():
        near, far = at(stride) - at(-stride), at(2 * stride) - at(-2 * stride)
    return at(0.0), (8 * near - far) / (12 * stride)
