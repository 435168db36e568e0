"""DDPM, Euler and the flow schedulers of diffusers, on equal grids: 3e-5 of the largest value in every state.

Exceptions, by their reason: its large variance also adds noise in the last step, to data; its Heun on a chain
integrates in sigma / alpha, where `heun` takes the straight variable; the `linspace` grid of its DDIM goes to
t - 1000 // n, which is not the next time of that grid.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from core.diffusion.paths.kinds import make_path
from core.diffusion.solvers.kinds import KINDS, SolverName
from core.diffusion.solvers.levels import Estimate, Level, Options, levels_at
from tests.core.diffusion.test_diffusers_solvers import CHAIN, MEANS, drawn, noise_of

diffusers = pytest.importorskip("diffusers")

STEPS = 20
START = torch.linspace(-2.5, 2.5, 64)
CHAIN_TIMES = [(1000 - k * (1000 // STEPS)) / 1000 for k in range(STEPS)]


def wide(x: Tensor) -> Tensor:
    return x[:, None, None, None]


def theirs(scheduler: Any, start: Tensor, output: Callable[[Tensor, float], Tensor]) -> list[Tensor]:
    """Return all states.  output: of the network, of a state and a time of the scheduler."""
    x, states = start.clone(), []
    for number, time in enumerate(scheduler.timesteps):
        states.append(x)
        scheduler.number = number
        x = scheduler.step(wide(output(x, float(time))), time, wide(x)).prev_sample.flatten()
    return [*states, x]


def data_of(x: Tensor, noise: Tensor, alpha: float, sigma: float) -> Tensor:
    """Return the data that go with this noise; without signal the mean of all data."""
    return (x - sigma * noise) / alpha if alpha else torch.full_like(x, float(MEANS.mean()))


def ours(
    solver: SolverName, path_name: Any, times: list[float], options: Options, start: Tensor
) -> list[Tensor]:
    states: list[Tensor] = []

    def denoise(x: Tensor, level: Level) -> Estimate:
        states.append(x)
        noise = noise_of(x, level.alpha, level.sigma)
        return Estimate(data_of(x, noise, level.alpha, level.sigma), noise)

    path = make_path(path_name)
    end = KINDS[solver].solve(
        denoise, start, [*times, 0.0], path, noise=lambda n: drawn(n, start), options=options
    )
    return [*states, end]


def require_equal(found: list[Tensor], expected: list[Tensor], last: int) -> None:
    assert len(found) == len(expected)
    for one, other in list(zip(found, expected, strict=True))[:last]:
        torch.testing.assert_close(one, other, rtol=0, atol=3e-5 * float(other.abs().max()))


@pytest.mark.parametrize(("kind", "variance"), [("fixed_small", "small"), ("fixed_large", "large")])
def test_ancestral_steps_are_those_of_its_ddpm(
    kind: str, variance: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from diffusers.schedulers import scheduling_ddpm

    scheduler = diffusers.DDPMScheduler(
        **CHAIN, variance_type=kind, clip_sample=False, timestep_spacing="trailing"
    )
    scheduler.set_timesteps(STEPS)
    monkeypatch.setattr(
        scheduling_ddpm, "randn_tensor", lambda shape, **more: wide(drawn(scheduler.number, START))
    )
    chain = make_path("ddpm_linear")

    def output(x: Tensor, time: float) -> Tensor:
        (level,) = levels_at(chain, [(time + 1) / 1000])
        return noise_of(x, level.alpha, level.sigma)

    found = ours("ddpm", "ddpm_linear", CHAIN_TIMES, Options(variance=variance), START)
    require_equal(found, theirs(scheduler, START, output), STEPS if kind == "fixed_large" else STEPS + 1)


def test_euler_is_its_euler_in_its_variables() -> None:
    """It keeps x / alpha and sigma / alpha, in which Euler's step is the same."""
    scheduler = diffusers.EulerDiscreteScheduler(**CHAIN, timestep_spacing="trailing")
    scheduler.set_timesteps(STEPS)
    chain = make_path("ddpm_linear")
    grid = levels_at(chain, [*CHAIN_TIMES, 0.0])

    def output(x: Tensor, time: float) -> Tensor:
        (level,) = levels_at(chain, [(time + 1) / 1000])
        scheduler.is_scale_input_called = True
        return noise_of(x * level.alpha, level.alpha, level.sigma)

    found = ours("euler", "ddpm_linear", CHAIN_TIMES, Options(), START)
    scaled = [x / level.alpha for x, level in zip(found, grid, strict=True)]
    require_equal(scaled, theirs(scheduler, START / grid[0].alpha, output), STEPS + 1)


def flow(x: Tensor, time: float) -> Tensor:
    t = time / 1000
    noise = noise_of(x, 1 - t, t)
    return noise - data_of(x, noise, 1 - t, t)


def test_euler_is_its_euler_on_the_flow() -> None:
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    sigmas = np.linspace(1, 0.05, STEPS)
    scheduler.set_timesteps(sigmas=sigmas.tolist())
    found = ours("euler", "rectified_flow", sigmas.tolist(), Options(), START)
    require_equal(found, theirs(scheduler, START, flow), STEPS + 1)


def test_heun_is_its_heun_on_the_flow() -> None:
    scheduler = diffusers.FlowMatchHeunDiscreteScheduler()
    scheduler.set_timesteps(STEPS)
    times = np.linspace(1, 0.001, STEPS).tolist()
    found = ours("heun", "rectified_flow", times, Options(), START)
    require_equal(found, theirs(scheduler, START, flow), 2 * STEPS)


@pytest.mark.parametrize(
    ("solver", "scheduler", "fields"),
    [
        ("unipc_2", "UniPCMultistepScheduler", {"solver_order": 2, "final_sigmas_type": "zero"}),
        ("dpmpp_2m", "DPMSolverMultistepScheduler", {"solver_order": 2, "final_sigmas_type": "zero"}),
    ],
)
def test_multistep_solvers_are_its_on_the_flow_from_near_its_end(
    solver: SolverName, scheduler: str, fields: dict[str, Any]
) -> None:
    """Its UniPC starts at 1 - 1e-6, where log(alpha / sigma) is finite."""
    made = getattr(diffusers, scheduler)(use_flow_sigmas=True, prediction_type="flow_prediction", **fields)
    made.set_timesteps(STEPS)
    times = [float(sigma) for sigma in made.sigmas[:-1]]
    found = ours(solver, "rectified_flow", times, Options(), START)
    expected = theirs(made, START, lambda x, _: flow(x, 1000 * times[made.number]))  # it rounds its times
    require_equal(found, expected, STEPS + 1)
