"""Solvers that draw: what they tend to in many steps, by their recursions, and what they do not read."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
from torch import Tensor

from core.diffusion.grids import Grid, make_grid
from core.diffusion.paths.kinds import make_path
from core.diffusion.paths.path import Path, PathName
from core.diffusion.solvers.default_grids import best_grid
from core.diffusion.solvers.kinds import KINDS, SolverName, require_taken
from core.diffusion.solvers.levels import (
    ChurnConfig,
    CorrectorConfig,
    Estimate,
    Level,
    Options,
    RestartConfig,
    levels_at,
)
from core.errors import UserError
from tests.core.diffusion import noisy_recursions as noisy
from tests.core.diffusion import recursions as plain
from tests.core.diffusion.recursions import Recursion
from tests.core.diffusion.tracked import MEAN, VARIANCE, found_by, slope, variance_of

FLOW = make_path("rectified_flow")
COUNTS = (50, 100, 200, 400)
GRIDS: tuple[Grid, ...] = ("even", "trailing", "straight")
WEAK: dict[str, Recursion] = {
    "ddpm": plain.ancestral(0),
    "ddpm large": plain.ancestral(1),
    "ddim 0.5": plain.ddim(0.5),
    "sde_dpmpp": plain.first_order(plain.sde),
    "sde_dpmpp_2m": plain.sde_multistep,
    "euler_maruyama 0.5": noisy.maruyama(0.5),
    "euler_maruyama 1": noisy.maruyama(1.0),
    "edm": noisy.churned(ChurnConfig(amount=10)),
    "restart": noisy.restarted(RestartConfig(low=0.2, high=0.6, times=2)),
}


@pytest.mark.parametrize("name", WEAK)
def test_moments_tend_to_those_of_the_data_with_weak_order_1(name: str) -> None:
    """By the recursions, which the solvers follow to 1e-10."""
    errors = []
    for count in COUNTS:
        found = WEAK[name](FLOW, make_grid("straight", FLOW, count, 1.0))
        assert float(found[1]) == pytest.approx(MEAN, abs=1e-12)
        errors.append(abs(variance_of(found) - VARIANCE))
    assert slope(COUNTS, errors) >= 0.8, errors
    assert errors[-1] < 0.02


CHAIN = make_path("ddpm_linear")
ON_CHAINS: tuple[SolverName, ...] = ("ddpm", "langevin", "sde_dpmpp", "sde_dpmpp_2m")


def deviation_off(solver: SolverName, times: Sequence[float], path: Path = CHAIN) -> float:
    """Return by how much the deviation of the end is off, the geometric mean over variances of the data."""
    (first,), found = levels_at(path, times[:1]), list[float]()
    for variance in (0.03, 0.1, 0.3, 0.8):

        def exact(x: Tensor, level: Level, variance: float = variance) -> Estimate:
            data = level.alpha * variance / (level.alpha**2 * variance + level.sigma**2) * x
            return Estimate(data, (x - level.alpha * data) / level.sigma)

        factors = found_by(solver, Options(), path, times, exact)
        kept = float(factors[0] ** 2) * (first.alpha**2 * variance + first.sigma**2)
        spread = kept + float(factors[2:].square().sum())
        found.append(math.log(abs((spread / variance) ** 0.5 - 1)))
    return math.exp(sum(found) / len(found))


def test_solvers_with_a_grid_of_their_own_on_chains_are_those_measured() -> None:
    kinds = KINDS.items()
    assert {name for name, kind in kinds if kind.is_random and kind.chain_grid != "even"} == {*ON_CHAINS}


@pytest.mark.parametrize("solver", ON_CHAINS)
def test_on_chains_default_grids_leave_less_of_the_spread_out(solver: SolverName) -> None:
    """Beside even and trailing times, at 20 and 50 evaluations."""
    for evaluations in (20, 50):
        steps = evaluations // KINDS[solver].evaluations
        best = best_grid(solver, steps, CHAIN, "v")
        assert best == ("optimised" if (solver, steps) == ("sde_dpmpp_2m", 50) else "straight")
        off = {grid: deviation_off(solver, make_grid(grid, CHAIN, steps, 1.0)) for grid in (*GRIDS, best)}
        assert min(off["even"], off["trailing"]) > 1.2 * off[best], (evaluations, off)


@pytest.mark.full
@pytest.mark.parametrize("path", ["ddpm_cosine", "ddpm_scaled_linear", "ddpm_sigmoid"])
@pytest.mark.parametrize("solver", ON_CHAINS)
def test_on_no_chain_a_default_grid_leaves_more_of_the_spread_out(solver: SolverName, path: PathName) -> None:
    """Than even and trailing times, at 10, 20 and 50 evaluations."""
    chain = make_path(path)
    for evaluations in (10, 20, 50):
        steps = evaluations // KINDS[solver].evaluations
        best = best_grid(solver, steps, chain, "v")
        off = {
            grid: deviation_off(solver, make_grid(grid, chain, steps, 1.0), chain)
            for grid in ("even", "trailing", best)
        }
        assert off[best] <= 1.001 * min(off.values()), (evaluations, off)


def test_langevin_steps_of_a_size_of_their_own_leave_a_bias_that_is_small() -> None:
    """They do not shrink with the grid, so no order is asked of them (docs/method.md)."""
    found = noisy.corrected(0.0, CorrectorConfig())(FLOW, make_grid("even", FLOW, 400, 1.0))
    assert variance_of(found) == pytest.approx(VARIANCE, rel=0.01)
    assert float(found[1]) == pytest.approx(MEAN, abs=0.01)


def test_what_a_solver_does_not_read_is_refused() -> None:
    for solver, options, message in (
        (
            "heun",
            Options(churn=ChurnConfig(amount=1)),
            r"^churn\.amount=1: expected 0 with solver=heun; solver=edm takes it",
        ),
        (
            "euler",
            Options(eta=0.5),
            "eta=0.5: expected 0 with solver=euler; solver=ddim or",
        ),
        ("ddim", Options(variance="large"), "variance=large: expected auto with solver=ddim; solver=ddpm"),
        ("euler_maruyama", Options(), "eta=0: expected a number above 0"),
    ):
        with pytest.raises(UserError, match=message):
            require_taken(solver, options)  # type: ignore[arg-type]
