"""Networks that map every level of noise to the data at the end of the flow through it (consistency).

consistency: trained from data alone, as improved consistency training has it (2310.14189): the estimate of
the data at a time is to be the one at the time before, of the same data and noise, without a gradient
through that one; pseudo-Huber distance; the number of times doubles as training goes on.
distillation: the time before is reached by a step of Heun's method along the flow of a trained network
(2303.01469, algorithm 2), not by the noise that was drawn. The rest is the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from core.config.settings import setting
from core.diffusion import predictions
from core.diffusion.frames.training_levels import mean_over_unknown, wide
from core.diffusion.objectives.noised import Model, NoisyBatch, squared_error
from core.diffusion.paths.path import Path
from core.diffusion.predictions import Prediction
from core.errors import UserError
from core.losses import Losses


@dataclass(frozen=True, kw_only=True)
class ConsistencyConfig:
    """Settings of the objectives `consistency` and `distillation`."""

    intervals: int = setting(
        10,
        "number of equal time intervals at the start of training; the estimates at both ends of an "
        "interval are compared",
        low=1,
    )
    most_intervals: int = setting(1280, "largest number of intervals, reached at the end", low=1)
    double_every: int = setting(
        1000, "steps after which the number of intervals doubles; 0 starts with most_intervals", low=0
    )
    huber: float = setting(
        0.00054,
        "deviation per number below which the pseudo-Huber loss is quadratic and above which it is "
        "linear; 0: squared error",
        low=0,
    )

    def __post_init__(self) -> None:
        if self.most_intervals < self.intervals:
            expected = f"at least intervals={self.intervals}"
            raise UserError("most_intervals", self.most_intervals, expected)


@dataclass(frozen=True)
class Teacher:
    """A trained network whose flow is distilled, a fixed function on the same path."""

    model: Model
    prediction: Prediction


def intervals_at(config: ConsistencyConfig, step_index: int) -> int:
    """Return the number of intervals in a step of training."""
    doublings = step_index // config.double_every if config.double_every else 64
    return min(config.intervals << min(doublings, 64), config.most_intervals)


def neighbours(config: ConsistencyConfig, t: Tensor, step_index: int) -> tuple[Tensor, Tensor]:
    """Return the ends (B,) of the interval that each time lies in, the later one first."""
    count = intervals_at(config, step_index)
    place = torch.ceil(t.double() * count).clamp(1, count)
    return (place / count).to(t.dtype), ((place - 1) / count).to(t.dtype)


def consistency_loss(
    model: Model,
    noised: NoisyBatch,
    path: Path,
    prediction: Prediction,
    config: ConsistencyConfig,
    teacher: Teacher | None = None,
) -> Losses:
    """Return the distance of every sample's estimates at two times, over the difference of their noise.

    The distance is sqrt(m + huber^2) - huber with m the mean square of a number: that of the paper over the
    root of the count of numbers.  teacher: None takes the same noise at both times.
    """
    assert noised.end is not None
    assert noised.noise is not None
    s, here = noised.end, (noised.time, noised.alpha, noised.sigma)
    alpha, sigma = path.levels(s)
    there = s, wide(alpha), wide(sigma)

    def estimate(x: Tensor, t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        seen = predictions.network_input(path, x, alpha, sigma)
        output = model(seen, path.time_input(t), noised.condition)[:, : x.shape[1]]
        return predictions.to_data(prediction, output.to(x.dtype), x, alpha, sigma)

    with torch.no_grad():
        if teacher is None:
            x_s = there[1] * noised.x0 + there[2] * noised.noise
        else:
            x_s = heun_step(flow_of(teacher, noised, path), noised.x_t, here, there)
        wanted = torch.where(there[2] > 0, estimate(x_s, *there), x_s)
    error = squared_error(estimate(noised.x_t, *here), wanted)
    squared = mean_over_unknown(error, noised.condition.frame_mask)
    distance = (squared + config.huber**2).sqrt() - config.huber if config.huber else squared
    closeness = (noised.sigma - there[2]).flatten()
    return Losses(distance / closeness, noised.time, {"squared_error": squared})


Levels = tuple[Tensor, Tensor, Tensor]
"""Times (B,), alpha and sigma (B, 1, 1, 1, 1)."""


def flow_of(teacher: Teacher, noised: NoisyBatch, path: Path) -> Callable[[Tensor, Levels], Tensor]:
    """Return noise - data as a trained network estimates them: dz/dr of its flow (docs/method.md)."""

    def flow(x: Tensor, at: Levels) -> Tensor:
        seen = predictions.network_input(path, x, *at[1:])
        output = teacher.model(seen, path.time_input(at[0]), noised.condition)[:, : x.shape[1]].to(x.dtype)
        coefficients = (teacher.prediction, output, x, *at[1:])
        return predictions.to_noise(*coefficients) - predictions.to_data(*coefficients)

    return flow


def heun_step(flow: Callable[[Tensor, Levels], Tensor], x: Tensor, here: Levels, there: Levels) -> Tensor:
    """Step along a flow by Heun's method in r = sigma / (alpha + sigma); by Euler's to where it is 0."""
    z = x / (here[1] + here[2])
    h = there[2] / (there[1] + there[2]) - here[2] / (here[1] + here[2])
    first, size = flow(x, here), there[1] + there[2]
    reached = z + h * first
    second = flow(reached * size, there)
    return torch.where(there[2] > 0, z + h * (first + second) / 2, reached) * size
