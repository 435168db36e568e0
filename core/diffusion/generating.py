"""Sampling: a solver, a grid of times and guidance around a denoiser."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from core.batch import Condition
from core.diffusion.estimating import estimating
from core.diffusion.finite import FiniteWatch
from core.diffusion.frames.lagging import solve_frames, with_given_frames
from core.diffusion.guidance.branches import guided_by
from core.diffusion.guidance.guides import NONE, Guides
from core.diffusion.guidance.mixing import Momentum
from core.diffusion.objectives.noised import Model
from core.diffusion.paths.path import Path
from core.diffusion.predictions import Prediction
from core.diffusion.sampling import (
    SamplerConfig,
    check_start,
    require_one_level,
    require_own_levels,
    settle_start,
    time_grid,
)
from core.diffusion.solvers.kinds import KINDS, require_for_frames
from core.diffusion.solvers.levels import Denoise
from core.diffusion.solvers.stepwise import Course
from core.diffusion.tasks.task import NOTHING, Task
from core.draws import Draws
from core.errors import UserError, below


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
    guides: Guides = NONE,
    frames_per_level: int = 0,
    task: Task = NOTHING,
) -> Tensor:
    """Draw (B, C, T, H, W) float32 on the device of `draws`, a sample per id; given frames stay as they are.

    Every random number is keyed by the sample, so a sample does not depend on what else is in the batch.
    learned_sigma: whether the model's variance output was trained, so that the ddpm solver uses it.
    frames_per_level: latent frames of which the network is told one level of noise, 0 for all of them.
    task: what is asked beside that.
    """
    if task.start_time is None:
        check_start(config, path, prediction)
        config = settle_start(config, path, prediction)
    times, size = time_grid(config, path, prediction, task.start_time), tuple(shape[1:])
    if task.windows is not None:
        model, guides = task.windows.over(model), guides.with_networks(task.windows.over)
    guide, interval = config.guide, (config.guidance_end, config.guidance_start)
    with below("guide"):
        guides.require(condition, guide)
    branches = guides.branches(model, condition, config.guidance, guide)
    classifier = guides.classifier_guide(condition, guide)
    denoise = estimating(
        guided_by(branches, interval, together=guide.together),
        config.mixing,
        config.threshold,
        path,
        prediction,
        size[0],
        learned_sigma=learned_sigma,
        classifier=classifier,
        momentum=Momentum(guide.momentum, times) if guide.momentum else None,
        still_above=times[guide.zero_steps] if guide.zero_steps else math.inf,
    )
    noise = draws.normal("sample_start", size) if task.noise is None else task.noise
    x = task.begin(noise, path, times[0], start_deviation(path, times[0]))
    denoise = task.over(denoise, noise)
    watch = FiniteWatch(draws.id, "the network, guided by the classifier," if classifier else "the network")
    with watch.naming():
        x = _solved(
            watch.over(denoise), x, condition, config, times, path, prediction, draws, frames_per_level
        )
    return task.end(with_given_frames(x, condition))


def _solved(
    denoise: Denoise,
    x: Tensor,
    condition: Condition,
    config: SamplerConfig,
    times: list[float],
    path: Path,
    prediction: Prediction,
    draws: Draws,
    frames_per_level: int,
) -> Tensor:
    """Return the end of a start x."""
    kind, size = KINDS[config.solver], tuple(x.shape[1:])

    def noise(number: int) -> Tensor:
        return draws.normal(f"sample_step_{number}", size)

    if config.frame_lag or (frames_per_level and condition.frame_mask is not None):
        if not frames_per_level:
            raise UserError("frame_lag", config.frame_lag, "0 for a network made without model.frame_levels")
        require_one_level(config, "frames", prediction)
        solver, course = require_for_frames(config.solver), Course.along(times, path, noise, config.options)
        delay = config.frame_lag * kind.evaluations_with(config.options)
        x = with_given_frames(x, condition)
        return solve_frames(solver, denoise, x, course, frames_per_level, delay, condition.frame_mask)
    require_own_levels(config, prediction)
    return kind.solve(denoise, x, times, path, noise=noise, options=config.options)


def start_deviation(path: Path, time: float) -> float:
    """Return the standard deviation of x_t for data of unit variance, such as normalised latents."""
    t = torch.tensor(time, dtype=torch.float64)
    return math.hypot(*map(float, path.levels(t)))
