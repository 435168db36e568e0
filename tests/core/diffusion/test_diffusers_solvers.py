"""Solvers beside the schedulers of diffusers, on equal grids and with an exact denoiser."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from core.diffusion.paths.kinds import make_path
from core.diffusion.solvers.kinds import KINDS, SolverName
from core.diffusion.solvers.levels import Estimate, Level, Options

diffusers = pytest.importorskip("diffusers")

CHAIN = {"num_train_timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}
MULTISTEP = {**CHAIN, "final_sigmas_type": "zero", "lower_order_final": False, "timestep_spacing": "trailing"}
UNIPC = {**CHAIN, "timestep_spacing": "trailing"}  # its last steps are of lower order, or not finite
MEANS = torch.tensor([-1.0, 1.5, 0.4])


def noise_of(x: Tensor, alpha: float, sigma: float) -> Tensor:
    spread = alpha**2 * 0.1 + sigma**2
    apart = x[:, None] - alpha * MEANS.to(x)
    share = torch.softmax(-(apart**2) / (2 * spread), dim=1)
    data = (share * (MEANS.to(x) + alpha * 0.1 * apart / spread)).sum(1)
    return (x - alpha * data) / sigma


def theirs(scheduler: Any, start: Tensor, steps: int, **options: Any) -> list[Tensor]:
    """Run a scheduler with the exact noise at the levels of the chain; return all states."""
    path = make_path("ddpm_linear")
    scheduler.set_timesteps(steps)
    x, states = start.clone(), []
    for number, step in enumerate(scheduler.timesteps):
        states.append(x)
        time = (torch.tensor(float(step), dtype=torch.float64) + 1) / 1000
        noise = noise_of(x, float(path.alpha(time)), float(path.sigma(time)))
        draw = {"variance_noise": _batch(drawn(number, x))} if options.get("eta") else {}
        x = scheduler.step(_batch(noise), step, _batch(x), **options, **draw).prev_sample.flatten()
    return [*states, x]


def _batch(x: Tensor) -> Tensor:
    """Return numbers as a batch of pictures of one pixel, which UniPC's scheduler asks for."""
    return x[:, None, None, None]


def drawn(number: int, x: Tensor) -> Tensor:
    return torch.randn(x.shape, generator=torch.Generator().manual_seed(number), dtype=torch.float32).to(x)


def ours(solver: SolverName, start: Tensor, steps: int, options: Options) -> list[Tensor]:
    states = []

    def denoise(x: Tensor, level: Level) -> Estimate:
        states.append(x)
        noise = noise_of(x, level.alpha, level.sigma)
        return Estimate((x - level.sigma * noise) / level.alpha, noise)

    times = [(1000 - k * (1000 // steps)) / 1000 for k in range(steps)]
    draw = lambda number: drawn(number, start)  # noqa: E731
    path = make_path("ddpm_linear")
    last = KINDS[solver].solve(denoise, start, [*times, 0.0], path, noise=draw, options=options)
    return [*states, last]


@pytest.mark.parametrize(
    ("solver", "scheduler", "fields", "options"),
    [
        ("ddim", "DDIMScheduler", {**CHAIN, "clip_sample": False, "timestep_spacing": "trailing"}, {}),
        (
            "ddim",
            "DDIMScheduler",
            {**CHAIN, "clip_sample": False, "timestep_spacing": "trailing"},
            {"eta": 0.6},
        ),
        ("dpmpp_2m", "DPMSolverMultistepScheduler", {**MULTISTEP, "solver_order": 2}, {}),
        ("dpmpp_3m_diffusers", "DPMSolverMultistepScheduler", {**MULTISTEP, "solver_order": 3}, {}),
        ("unipc_2", "UniPCMultistepScheduler", {**UNIPC, "solver_order": 2}, {}),
        ("unipc_3", "UniPCMultistepScheduler", {**UNIPC, "solver_order": 3}, {}),
    ],
)
def test_a_solver_agrees_with_the_scheduler_of_the_same_name(
    solver: SolverName, scheduler: str, fields: dict[str, Any], options: dict[str, float]
) -> None:
    start = torch.linspace(-2.5, 2.5, 64)
    made = getattr(diffusers, scheduler)(**fields)
    expected = theirs(made, start, 20, **options)
    found = ours(solver, start, 20, Options(**options))
    assert len(found) == len(expected) == 21
    for number, (one, other) in enumerate(zip(found, expected, strict=True)):
        if solver == "unipc_3" and number > 18:
            break  # its last steps but one are of order 2 there
        torch.testing.assert_close(one, other, rtol=0, atol=3e-5 * float(other.abs().max()))
