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


@pytest.mark.parametrize("name", ["rectified_flow", "ddpm_linear", "edm"])
def test_the_last_of_many_steps_has_the_density_of_its_draw_given_the_one_before(name: PathName) -> None:
    """Every step of a walk of `sde_dpmpp_2m`, also the second from where there is no signal."""
    path, times = make_path(name), (1.0, 0.8, 0.6, 0.4)
    states, estimates = list[Tensor](), list[Estimate]()

    def drawn(number: int) -> Tensor:
        generator = torch.Generator().manual_seed(number)
        return torch.randn(X.shape, generator=generator, dtype=torch.float64)

    def estimated(x: Tensor, level: Level) -> Estimate:
        states.append(x)
        estimates.append(Estimate(torch.sin(x), torch.cos(x)))
        return estimates[-1]

    KINDS["sde_dpmpp_2m"].solve(estimated, X, [*times, 0.0], path, noise=drawn)
    for number in range(3):
        before = (times[number - 1], estimates[number - 1]) if number else None
        step = (times[number], times[number + 1])
        found = transition("sde_dpmpp_2m", states[number], estimates[number], step, path, before=before)
        scaled = -0.5 * drawn(number).square() - found.deviation.log() - 0.5 * math.log(2 * math.pi)
        wanted = scaled.flatten(1).sum(1)
        torch.testing.assert_close(found.log_prob(states[number + 1]), wanted, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", ["rectified_flow", "ddpm_linear", "edm"])
def test_a_step_with_history_is_the_affine_normal_of_its_closed_form(name: PathName) -> None:
    """On data N(m, v), whose estimate is an affine function of the state: mean, deviation, log-density."""
    path, times, m, v = make_path(name), (0.8, 0.6, 0.4), 0.7, 0.3
    before, here, there = levels_at(path, times)

    def estimated(x: Tensor, level: Level) -> Tensor:
        return m + level.alpha * v / (level.alpha**2 * v + level.sigma**2) * (x - level.alpha * m)

    x_before = X + 0.3
    first, last = estimated(x_before, before), estimated(X, here)
    h_before = math.log(here.alpha * before.sigma / (here.sigma * before.alpha))
    h = math.log(there.alpha * here.sigma / (there.sigma * here.alpha))
    line = last + h / (2 * h_before) * (last - first)  # 2211.01095, algorithm 2, of the SDE in appendix D
    mean = there.sigma / here.sigma * math.exp(-h) * X + there.alpha * (1 - math.exp(-2 * h)) * line
    deviation = there.sigma * math.sqrt(1 - math.exp(-2 * h))
    found = transition(
        "sde_dpmpp_2m",
        X,
        Estimate(last, NOISE),
        times[1:],
        path,
        before=(times[0], Estimate(first, NOISE)),
    )
    torch.testing.assert_close(found.mean, mean, rtol=0, atol=1e-12)
    torch.testing.assert_close(found.deviation, torch.full_like(X, deviation), rtol=0, atol=1e-12)
    end = DATA
    wanted = torch.distributions.Normal(mean, deviation).log_prob(end).flatten(1).sum(1)
    torch.testing.assert_close(found.log_prob(end), wanted, rtol=0, atol=1e-10)
    plain = transition("sde_dpmpp_2m", X, Estimate(last, NOISE), times[1:], path)
    assert float((plain.mean - found.mean).abs().max()) > 1e-3  # the history counts


def test_densities_of_a_step_with_history_are_what_its_draws_have_and_differentiable() -> None:
    """By a million draws through the solver, their shares in 40 bins, and by differences for the gradient."""
    path, times = make_path("rectified_flow"), (0.8, 0.6, 0.4)
    count = 1_000_000
    x, first, last = (torch.full((count,), value, dtype=torch.float64) for value in (0.4, -0.5, 0.9))
    kept = list[Tensor]()
    estimates = iter([first, last, last])

    def estimated(state: Tensor, level: Level) -> Estimate:
        kept.append(state)
        return Estimate(next(estimates), last)

    generator = torch.Generator().manual_seed(5)
    draws = torch.randn(2, count, generator=generator, dtype=torch.float64)
    reach = transition("sde_dpmpp_2m", x, Estimate(first, last), times[:2], path)
    draws[0] = (x - reach.mean) / reach.deviation  # so that every walk is at x after one step
    KINDS["sde_dpmpp_2m"].solve(estimated, x, [*times, 0.0], path, noise=lambda n: draws[n])
    one, early = torch.full((1, 1), 0.4, dtype=torch.float64), torch.full((1, 1), -0.5, dtype=torch.float64)
    late = torch.full((1, 1), 0.9, dtype=torch.float64, requires_grad=True)

    def density(data: Tensor, at: Tensor) -> Tensor:
        history = (times[0], Estimate(early, data))
        return transition(
            "sde_dpmpp_2m", one, Estimate(data, data), times[1:], path, before=history
        ).log_prob(at)

    spread = float(kept[2].std())
    edges = torch.linspace(-2 * spread, 2 * spread, 41, dtype=torch.float64) + float(kept[2].mean())
    shares = torch.histogram(kept[2], edges).hist / count
    middles = (edges[1:] + edges[:-1]) / 2
    expected = torch.stack([density(late, at[None, None]).exp()[0] for at in middles]) * (edges[1] - edges[0])
    torch.testing.assert_close(shares, expected.detach(), rtol=0.03, atol=2e-4)
    assert torch.autograd.gradcheck(lambda data: density(data, one), late)


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


@pytest.mark.parametrize("solver", ONE_DRAW)
def test_small_deviations_keep_their_digits_in_float32(solver: SolverName) -> None:
    path, times = make_path("rectified_flow"), (0.0101, 0.01)
    exact = transition(solver, X, Estimate(DATA, NOISE), times, path, options(solver)).deviation
    estimate = Estimate(DATA.float(), NOISE.float())
    found = transition(solver, X.float(), estimate, times, path, options(solver)).deviation
    torch.testing.assert_close(found.double(), exact, rtol=1e-6, atol=0)


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


@pytest.mark.parametrize(
    ("solver", "time", "message"),
    [
        ("ddpm", 0.8, r"before=0\.8: expected none with solver=ddpm; solver=sde_dpmpp_2m looks back"),
        ("sde_dpmpp_2m", 0.6, r"before=0\.6: expected a time above times\[0\]=0\.6"),
    ],
)
def test_a_step_before_that_cannot_be_is_named(solver: SolverName, time: float, message: str) -> None:
    estimate = Estimate(DATA, NOISE)
    with pytest.raises(UserError, match=message):
        transition(solver, X, estimate, (0.6, 0.4), make_path("ddpm_linear"), before=(time, estimate))
