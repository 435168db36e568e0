"""Orders of convergence between two fixed levels, the step to data, and the start without signal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache

import pytest
import torch
from torch import Tensor

from core.diffusion.grids import make_grid
from core.diffusion.paths.kinds import make_path
from core.diffusion.paths.path import Path, PathName
from core.diffusion.solvers.kinds import KINDS, SolverName
from core.diffusion.solvers.levels import Estimate, Level, noise_to_signal, times_at
from tests.core.diffusion.tracked import slope

ORDERS: dict[SolverName, float] = {
    "euler": 0.9,
    "ddim": 0.9,
    "midpoint": 1.8,
    "heun": 1.8,
    "dpmpp_2m": 1.8,
    "dpmpp_2s": 1.8,
    "dpmpp_3m_diffusers": 1.7,
    "unipc_1": 0.9,
    "unipc_2": 1.8,
    "rk4": 3.7,
    "unipc_3": 2.7,
    "dpmpp_3m": 2.7,
}
PATH = make_path("rectified_flow")
COUNTS = (40, 80, 160, 320, 640)
STARTS = 256


def means(modes: int) -> Tensor:
    return (
        torch.linspace(-1.6, 1.8, modes, dtype=torch.float64) if modes > 1 else torch.full((1,), 0.4).double()
    )


def mixture(x: Tensor, level: Level, modes: int = 3) -> Estimate:
    """Return the exact estimate for Gaussians of variance 0.1 and unequal weights."""
    at = means(modes).to(x.dtype)
    weights = torch.arange(1, modes + 1, dtype=x.dtype).log()
    alpha, sigma = (torch.as_tensor(c, dtype=x.dtype).reshape(-1, 1) for c in (level.alpha, level.sigma))
    spread = alpha**2 * 0.1 + sigma**2
    apart = x[:, None] - alpha * at
    share = torch.softmax(weights - (apart**2) / (2 * spread), dim=1)
    data = (share * (at + alpha * 0.1 * apart / spread)).sum(1)
    return Estimate(data, (x - level.alpha * data) / level.sigma)


def between(solver: SolverName, path: Path, steps: int, modes: int) -> Tensor:
    """Solve from log-SNR -4 to 6; return the state before a last step, to t = 0."""
    values = torch.linspace(2.0, -3.0, steps + 1, dtype=torch.float64).tolist()  # of log(sigma / alpha)
    times = [*times_at(path, values, noise_to_signal), 0.0]
    seen: list[Tensor] = []

    def keeping(x: Tensor, level: Level) -> Estimate:
        if level.t == times[-2]:
            seen.append(x)
        return mixture(x, level, modes)

    start = torch.linspace(-3, 3, STARTS, dtype=torch.float64)
    KINDS[solver].solve(keeping, start, times, path, noise=lambda i: torch.zeros_like(start))
    return seen[-1]  # the first ones may be stages of the step before


@cache
def exactly(modes: int) -> Tensor:
    """Solve as `between` in so many steps that no error is left."""
    return between("rk4", PATH, 3000, modes)


@pytest.mark.parametrize("solver", ORDERS)
@pytest.mark.parametrize(
    ("modes", "counts"),
    [
        (8, COUNTS[:3]),
        *(pytest.param(modes, COUNTS, marks=pytest.mark.full) for modes in (1, 8)),
    ],
)
def test_errors_fall_with_the_order_of_the_solver(
    solver: SolverName, modes: int, counts: Sequence[int]
) -> None:
    errors = [
        float((between(solver, PATH, count, modes) - exactly(modes)).abs().median()) for count in counts
    ]
    assert slope(counts, errors) >= ORDERS[solver], errors


@pytest.mark.full
def test_half_of_the_second_difference_is_of_second_order() -> None:
    """So that the order asked of `dpmpp_3m` is one that the form of diffusers does not have."""
    errors = {
        name: [float((between(name, PATH, n, 8) - exactly(8)).abs().median()) for n in COUNTS]
        for name in ("dpmpp_3m", "dpmpp_3m_diffusers")
    }
    assert slope(COUNTS, errors["dpmpp_3m"]) >= ORDERS["dpmpp_3m"], errors
    assert slope(COUNTS, errors["dpmpp_3m_diffusers"]) <= 2.3, errors
    assert errors["dpmpp_3m"][-1] < errors["dpmpp_3m_diffusers"][-1] / 3, errors


def test_every_solver_that_does_not_draw_has_its_order_asked_for() -> None:
    kinds = KINDS.items()
    fixed = {name for name, kind in kinds if not (kind.is_random or kind.is_adaptive or kind.tells_ends)}
    assert set(ORDERS) == fixed


def one_step_to_data(solver: SolverName, path: Path, start: float, x: Tensor) -> Tensor:
    return KINDS[solver].solve(mixture, x, [start, 0.0], path, noise=lambda i: torch.zeros_like(x))


@pytest.mark.parametrize("name", ["rectified_flow", "edm"])
@pytest.mark.parametrize("solver", ORDERS)
def test_the_step_to_data_is_off_by_a_power_of_the_noise(solver: SolverName, name: PathName) -> None:
    """A constant estimate leaves half of sigma^2 times the score, the midpoint rule the next power."""
    path, x = make_path(name), torch.linspace(-1.9, 1.9, STARTS, dtype=torch.float64)
    ratios = [math.log(share) for share in (0.08, 0.04, 0.02, 0.01)]
    errors = []
    for start in times_at(path, ratios, noise_to_signal):
        exact = KINDS["midpoint"].solve(
            mixture, x, make_grid("straight", path, 60, start), path, noise=lambda i: x
        )
        errors.append(float((one_step_to_data(solver, path, start, x) - exact).abs().median()))
    power = 2.7 if solver in ("midpoint", "rk4") else 1.8
    assert slope((100, 200, 400, 800), errors) >= power, errors


@pytest.mark.parametrize("solver", [name for name in ORDERS if KINDS[name].evaluations == 1])
def test_a_start_without_signal_is_a_step_of_first_order_without_an_epsilon(solver: SolverName) -> None:
    """It is the limit of Euler's step from less and less signal, where log(alpha / sigma) has none."""
    x = torch.linspace(-2, 2, 9, dtype=torch.float64)

    def second_state(name: SolverName, start: float) -> Tensor:
        seen: list[Tensor] = []

        def keeping(state: Tensor, level: Level) -> Estimate:
            seen.append(state)
            return mixture(state, level)

        end = KINDS[name].solve(keeping, x, [start, 0.7, 0.4, 0.2, 0.0], PATH, noise=lambda i: x)
        assert end.isfinite().all()
        return seen[1]

    found = second_state(solver, 1.0)
    for epsilon in (1e-3, 1e-5, 1e-7):
        limit = second_state("euler", 1 - epsilon)
        torch.testing.assert_close(found, limit, rtol=0, atol=10 * epsilon)
