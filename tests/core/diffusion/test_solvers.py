"""Solvers on Gaussian data, where the exact denoiser and the exact answer are known.

For data N(m, v) the best guess is E[x_0 | x_t] = m + alpha v (x_t - alpha m) / (alpha^2 v + sigma^2), and the
probability flow keeps (x_t - alpha m) / sqrt(alpha^2 v + sigma^2) constant.
"""

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from core.diffusion.grids import make_grid
from core.diffusion.paths.kinds import make_path
from core.diffusion.paths.path import Path, PathName
from core.diffusion.posterior import posterior
from core.diffusion.solvers.ancestral import ddpm
from core.diffusion.solvers.ddim import ddim
from core.diffusion.solvers.kinds import KINDS, SolverName
from core.diffusion.solvers.levels import Estimate, Level, Solver, levels
from core.diffusion.solvers.runge_kutta import heun
from tests.core.diffusion.every_path import PATHS
from tests.core.diffusion.test_solver_orders import mixture

MEAN, VARIANCE = 0.7, 0.3


def gaussian(x: Tensor, level: Level) -> Estimate:
    spread = level.alpha**2 * VARIANCE + level.sigma**2
    data = MEAN + level.alpha * VARIANCE * (x - level.alpha * MEAN) / spread
    return Estimate(data, (x - level.alpha * data) / level.sigma)


def no_noise(i: int) -> Tensor:
    raise AssertionError("a deterministic solver asked for noise")


def straight_times(path: Path, steps: int) -> list[float]:
    """Return times whose sigma / (alpha + sigma) fall evenly to 0, found by bisection."""

    def share(t: float) -> float:
        at = torch.tensor(t, dtype=torch.float64)
        return float(path.sigma(at) / (path.alpha(at) + path.sigma(at)))

    times = [1.0]
    for k in range(1, steps):
        low, high, wanted = 0.0, 1.0, share(1.0) * (1 - k / steps)
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if share(middle) < wanted else (low, middle)
        times.append(high)
    return [*times, 0.0]


def error(solve: Solver, path: Path, steps: int) -> float:
    x = torch.linspace(-2, 2, 9, dtype=torch.float64)
    one = torch.tensor(1.0, dtype=torch.float64)
    alpha, sigma = float(path.alpha(one)), float(path.sigma(one))
    exact = MEAN + (x - alpha * MEAN) * math.sqrt(VARIANCE / (alpha**2 * VARIANCE + sigma**2))
    found = solve(gaussian, x, straight_times(path, steps), path, noise=no_noise)
    return float((found - exact).abs().max())


@pytest.mark.parametrize("name", ["rectified_flow", "ddpm_linear", "ddpm_cosine"])
@pytest.mark.parametrize(("solve", "order"), [(ddim, 1), (heun, 2)])
def test_deterministic_solvers_converge_with_their_order(name: PathName, solve: Solver, order: int) -> None:
    path = make_path(name)
    coarse, fine = error(solve, path, 40), error(solve, path, 80)
    assert math.log2(coarse / fine) == pytest.approx(order, abs=0.15)
    assert fine < {1: 0.02, 2: 5e-4}[order]


@pytest.mark.parametrize("name", PATHS)
def test_ddim_is_euler_in_the_straight_variables(name: PathName) -> None:
    path, times = make_path(name), [1.0, 0.8, 0.35, 0.1, 0.0]
    x = torch.linspace(-2, 2, 9, dtype=torch.float64)
    expected = x
    for here, there in itertools.pairwise(levels(path, times)):
        estimate = gaussian(expected, here)
        moved = (there.straight - here.straight) * (estimate.noise - estimate.data)
        expected = (expected / (here.alpha + here.sigma) + moved) * (there.alpha + there.sigma)
    for name_of_it in ("euler", "ddim"):
        found = KINDS[name_of_it].solve(gaussian, x, times, path, noise=no_noise)  # type: ignore[index]
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_euler_on_rectified_flow_is_the_plain_step_along_the_velocity() -> None:
    times = [1.0, 0.6, 0.2, 0.0]
    x = expected = torch.linspace(-2, 2, 9, dtype=torch.float64)
    for t, s in itertools.pairwise(times):
        estimate = gaussian(expected, Level(t, 1 - t, t, 1000 * t))
        expected = expected - (t - s) * (estimate.noise - estimate.data)
    found = ddim(gaussian, x, times, make_path("rectified_flow"), noise=no_noise)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def seeded_noise(shape: tuple[int, ...]) -> Callable[[int], Tensor]:
    return lambda i: torch.randn(shape, generator=torch.Generator().manual_seed(i), dtype=torch.float64)


@pytest.mark.parametrize("name", PATHS)
def test_ancestral_steps_keep_the_marginal_of_a_known_sample_exactly(name: PathName) -> None:
    """Where x_0 = m is certain, x_s ~ N(alpha_s m, sigma_s^2) after any step, however long."""
    path, n = make_path(name), 200_000
    seen: dict[float, Tensor] = {}

    def certain(x: Tensor, level: Level) -> Estimate:
        seen[level.t] = x
        data = torch.full_like(x, MEAN)
        return Estimate(data, (x - level.alpha * data) / level.sigma)

    one = torch.tensor(1.0, dtype=torch.float64)
    start = path.alpha(one) * MEAN + path.sigma(one) * seeded_noise((n,))(99)
    final = ddpm(certain, start, [1.0, 0.7, 0.3, 0.0], path, noise=seeded_noise((n,)))
    for t in (0.7, 0.3):
        at = torch.tensor(t, dtype=torch.float64)
        sigma = float(path.sigma(at))
        assert float(seen[t].mean()) == pytest.approx(float(path.alpha(at)) * MEAN, abs=4 * sigma / n**0.5)
        assert float(seen[t].var()) == pytest.approx(sigma**2, rel=4 * (2 / n) ** 0.5)
    torch.testing.assert_close(final, torch.full_like(final, MEAN))


@pytest.mark.parametrize("learned", [False, True])
def test_ancestral_sampling_gives_the_variance_of_the_data(learned: bool) -> None:
    """With the exact reverse variance few steps are enough; with the posterior's it takes the whole chain."""
    path, n = make_path("ddpm_linear"), 50_000
    times = [*(torch.arange(1000, 0, -40 if learned else -1) / 1000).tolist(), 0.0]
    following = dict(itertools.pairwise(times))

    def denoise(x: Tensor, level: Level) -> Estimate:
        estimate = gaussian(x, level)
        if not learned or following[level.t] == 0:
            return estimate
        step = posterior(path, torch.tensor([level.t]), torch.tensor([following[level.t]]))
        left = VARIANCE * level.sigma**2 / (level.alpha**2 * VARIANCE + level.sigma**2)  # Var[x_0 | x_t]
        exact = step.variance + step.from_data**2 * left
        lower, upper = step.variance.log(), step.transition.log()
        return Estimate(estimate.data, estimate.noise, 2 * (exact.log() - lower) / (upper - lower) - 1)

    x = ddpm(denoise, seeded_noise((n,))(10**6), times, path, noise=seeded_noise((n,)))
    last = times[-2]
    level = torch.tensor(last, dtype=torch.float64)
    a2, s2 = float(path.alpha(level)) ** 2, float(path.sigma(level)) ** 2
    expected = VARIANCE - VARIANCE * s2 / (a2 * VARIANCE + s2)  # the last step is the mean given x_t
    assert float(x.mean()) == pytest.approx(MEAN, abs=0.015)
    assert float(x.var()) == pytest.approx(expected, rel=4 * (2 / n) ** 0.5 + (0 if learned else 0.02))


def test_times_that_do_not_fall_to_zero_are_refused() -> None:
    for times in ([1.0, 0.5], [0.5, 1.0, 0.0], [0.0]):
        with pytest.raises(ValueError, match="fall to 0"):
            ddim(gaussian, torch.zeros(1), times, make_path("rectified_flow"), noise=no_noise)


@pytest.mark.parametrize("solver", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_state_keeps_its_dtype_and_samples_are_independent(
    solver: SolverName, dtype: torch.dtype
) -> None:
    path = make_path("rectified_flow")
    times = make_grid("even", path, 6, 1.0)
    start = torch.linspace(-2, 2, 8, dtype=dtype)
    drawn = torch.randn(12, 8, generator=torch.Generator().manual_seed(0)).to(dtype)
    whole = KINDS[solver].solve(mixture, start, times, path, noise=lambda i: drawn[i])
    assert whole.dtype == dtype
    assert torch.isfinite(whole).all()
    half = KINDS[solver].solve(mixture, start[:3], times, path, noise=lambda i: drawn[i][:3])
    torch.testing.assert_close(half, whole[:3], rtol=0, atol=1e-5 if dtype == torch.float32 else 1e-12)
