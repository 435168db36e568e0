"""Sampling: a solver, a grid of times and guidance around a denoiser."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import torch
from einops import rearrange
from torch import Tensor

from core.batch import Condition
from core.config.settings import setting
from core.diffusion import solvers
from core.diffusion.amplification import require_sound_start
from core.diffusion.guidance import classifier_free
from core.diffusion.objective import Model
from core.diffusion.paths import Path
from core.diffusion.predictions import Prediction, to_data, to_noise
from core.diffusion.solvers import Estimate, Level, Solver
from core.diffusion.timesteps import shifted
from core.draws import Draws
from core.errors import UserError

SOLVERS: dict[str, Solver] = {
    "euler": solvers.euler,
    "heun": solvers.heun,
    "ddim": solvers.ddim,
    "ddpm": solvers.ddpm,
}


@dataclass(frozen=True, kw_only=True)
class SamplerConfig:
    solver: Literal["euler", "heun", "ddim", "ddpm"] = setting(
        "euler", "how to step from noise to data; ddpm is the ancestral sampler, the others are deterministic"
    )
    steps: int = setting(50, "steps; heun evaluates the network twice in each", low=1)
    guidance: float = setting(1.0, "classifier-free guidance scale; 1 is off", low=0)
    guidance_start: float = setting(1.0, "largest time at which guidance acts", low=0, high=1)
    guidance_end: float = setting(0.0, "smallest time at which guidance acts", low=0, high=1)
    start: float = setting(1.0, "time to start from, nearly all noise; 1 is pure noise", low=0.5, high=1)
    shift: float = setting(1.0, "moves times towards noise, for large inputs; 1 is off")

    def __post_init__(self) -> None:
        if self.shift <= 0:
            raise UserError("shift", self.shift, "a number above 0")
        if self.guidance_start < self.guidance_end:
            raise UserError(
                "guidance_start", self.guidance_start, f"at least guidance_end={self.guidance_end}"
            )


@torch.no_grad()
def sample(
    model: Model,
    shape: tuple[int, int, int, int, int],
    condition: Condition,
    config: SamplerConfig,
    path: Path,
    prediction: Prediction,
    draws: Draws,
    *,
    learned_sigma: bool = False,
) -> Tensor:
    """Draw (B, C, T, H, W) float32 on the device of `draws`, a sample per id; given frames stay as they are.

    Every random number is keyed by the sample, so a sample does not depend on what else is in the batch.
    learned_sigma: whether the model's variance output was trained, so that the ddpm solver uses it.
    """
    check_start(config, path, prediction)
    times = time_grid(config, path)
    guided = classifier_free(model, condition, config.guidance, (config.guidance_end, config.guidance_start))
    size, channels = tuple(shape[1:]), shape[1]

    def denoise(x: Tensor, level: Level) -> Estimate:
        output = guided(x, level.t, level.time_input)
        fraction = output[:, channels:] if learned_sigma else None
        coefficients = (x, level.alpha, level.sigma)
        output = output[:, :channels]
        return Estimate(
            to_data(prediction, output, *coefficients), to_noise(prediction, output, *coefficients), fraction
        )

    x = draws.normal("sample_start", size) * start_deviation(path, times[0])
    x = SOLVERS[config.solver](
        denoise, x, times, path, noise=lambda i: draws.normal(f"sample_step_{i}", size)
    )
    if condition.frame_mask is not None and condition.frame_latents is not None:
        mask = rearrange(condition.frame_mask, "b t -> b 1 t 1 1")
        x = mask * condition.frame_latents + (1 - mask) * x
    return x


def check_start(config: SamplerConfig, path: Path, prediction: Prediction) -> str:
    """Refuse a start from which the network's errors would drown the data; return a warning, or ""."""
    return require_sound_start(
        lambda start: time_grid(replace(config, start=start), path), config.start, prediction, path
    )


def start_deviation(path: Path, time: float) -> float:
    """Return the standard deviation of x_t for data of unit variance, such as normalised latents."""
    t = torch.tensor(time, dtype=torch.float64)
    return math.hypot(float(path.alpha(t)), float(path.sigma(t)))


def time_grid(config: SamplerConfig, path: Path) -> list[float]:
    """Return steps + 1 falling times from config.start to 0.

    On a chain of N steps they are grid times, evenly spaced from start to 1/N and then 0, so that the network
    sees only times it was trained at (2102.09672, section 4).
    """
    if path.num_steps is None:
        grid = torch.linspace(config.start, 0, config.steps + 1, dtype=torch.float64)
        return shifted(grid, config.shift).tolist()
    if config.steps > path.num_steps * config.start:
        raise UserError("steps", config.steps, f"at most {int(path.num_steps * config.start)} on {path.name}")
    grid = torch.linspace(config.start, 1 / path.num_steps, config.steps, dtype=torch.float64)
    places = torch.round(shifted(grid, config.shift) * path.num_steps).tolist()
    if len(set(places)) < len(places):
        raise UserError(
            "steps", config.steps, f"fewer: with shift={config.shift} two of them share a time of {path.name}"
        )
    return [place / path.num_steps for place in places] + [0.0]
