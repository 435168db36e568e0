"""Log-densities of steps that draw, held to the published formulas and to what solvers draw."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from core.diffusion.paths.kinds import make_path
from core.diffusion.paths.path import PathName
from core.diffusion.posterior import posterior
from core.diffusion.solvers.kinds import KINDS, SolverName
from core.diffusion.solvers.levels import Estimate, Level, Options, levels_at
from core.diffusion.solvers.log_probs import ONE_DRAW, transition
from core.errors import UserError

GENERATOR = torch.Generator().manual_seed(0)
X, DATA, NOISE = torch.randn(3, 2, 2, 1, 2, 2, generator=GENERATOR, dtype=torch.float64)
ETA = Options(eta=0.7)


def options(solver: SolverName) -> Options:
    return ETA if "eta" in KINDS[solver].takes else Options()


@pytest.mark.parametrize("solver", ONE_DRAW)
@pytest.mark.parametrize("name", ["rectified_flow", "ddpm_linear", "edm"])
def test_the_log_density_of_what_a_solver_draws_is_that_of_its_draw(
    solver: SolverName, name: PathName
) -> None:
    path, times = make_path(name), (0.6, 0.4)
    estimate, seen = Estimate(DATA, NOISE), list[Tensor]()

    def known(x: Tensor, level: Level) -> Estimate:
        seen.append(x)
        return estimate

    drawn = torch.randn(X.shape, generator=GENERATOR, dtype=torch.float64)
    KINDS[solver].solve(known, X, [*times, 0.0], path, noise=lambda i: drawn, options=options(solver))
    found = transition(solver, X, estimate, times, path, options(solver))
    scaled = -0.5 * drawn.square() - found.deviation.log() - 0.5 * math.log(2 * math.pi)
    torch.testing.assert_close(found.log_prob(seen[1]), scaled.flatten(1).sum(1), rtol=1e-10, atol=1e-10)


def test_steps_are_those_of_the_published_formulas() -> None:
    path, times = make_path("ddpm_linear"), (0.6, 0.4)
    _, there = levels_at(path, times)
    back = posterior(path, torch.tensor([0.6]).double(), torch.tensor([0.4]).double())
    found = transition("ddpm", X, Estimate(DATA, NOISE), times, path)
    torch.testing.assert_close(found.mean, float(back.from_x) * X + float(back.from_data) * DATA)
    torch.testing.assert_close(found.deviation, torch.full_like(X, math.sqrt(float(back.variance))))
    ancestral = math.sqrt(float(back.variance)) * 0.7
    found = transition("ddim", X, Estimate(DATA, NOISE), times, path, ETA)
    kept = math.sqrt(there.sigma**2 - ancestral**2)
    torch.testing.assert_close(found.mean, there.alpha * DATA + kept * NOISE)
    torch.testing.assert_close(found.deviation, torch.full_like(X, ancestral))
    flow = make_path("rectified_flow")
    found = transition("euler_maruyama", X, Estimate(DATA, NOISE), times, flow, Options(eta=0.5))
    step = 0.6 - 0.4  # SiT: dx = (noise - data) dt + w / 2 score dt + sqrt(w) dW, with w = t
    torch.testing.assert_close(found.mean, X - step * (NOISE - DATA) - 0.5 * step * NOISE)
    torch.testing.assert_close(found.deviation, torch.full_like(X, math.sqrt(0.6 * step)))


def test_the_gradient_reaches_the_estimate_and_a_learned_variance() -> None:
    path = make_path("ddpm_linear")
    data, share = DATA.clone().requires_grad_(), torch.zeros_like(DATA).requires_grad_()
    found = transition("ddpm", X, Estimate(data, NOISE, share), (0.6, 0.4), path)
    wanted = X + 0.1
    found.log_prob(wanted).sum().backward()
    back = posterior(path, torch.tensor([0.6]).double(), torch.tensor([0.4]).double())
    expected = float(back.from_data) * (wanted - found.mean) / found.deviation**2
    torch.testing.assert_close(data.grad, expected.detach())
    assert share.grad is not None
    assert bool((share.grad != 0).all())


@pytest.mark.parametrize(
    ("solver", "times", "message"),
    [
        ("heun", (0.6, 0.4), r"solver=heun: expected one with one draw a step: ddpm"),
        ("ddpm", (0.6, 0.0), r"times=.*: expected two that fall and lie above 0"),
        ("ddim", (0.6, 0.4), r"eta=0\.0: expected more than 0: this step of ddim draws nothing"),
    ],
)
def test_steps_without_a_density_are_named(
    solver: SolverName, times: tuple[float, float], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        transition(solver, X, Estimate(DATA, NOISE), times, make_path("ddpm_linear"))
