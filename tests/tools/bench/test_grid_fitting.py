"""The grid `optimised`: found anew, and accepted on mixtures and on a network that it was not fitted on."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from core.batch import Condition
from core.diffusion import predictions
from core.diffusion.grids import SHAPE, Grid, make_grid
from core.diffusion.objective import Objective
from core.diffusion.objectives.config import ObjectiveConfig
from core.diffusion.paths.kinds import make_path
from core.diffusion.paths.path import PathName
from core.diffusion.solvers.kinds import KINDS, SolverName
from core.diffusion.solvers.levels import Denoise, Estimate, Level
from tests.core.diffusion.test_training_excess import samples, trained
from tools.bench.grid_fitting import (
    CHAIN,
    CHAINS,
    COUNTS,
    FITTED_ON,
    OTHERS,
    REFERENCE_STEPS,
    Errors,
    fitted,
    gains,
    geometric_mean,
)
from tools.bench.solver import MODES

TAKERS = [name for name, kind in KINDS.items() if kind.chain_grid == "optimised"]


def test_it_is_the_default_of_some_solvers_and_no_mixture_is_of_both_sides() -> None:
    assert TAKERS == ["dpmpp_3m", "unipc_3"]
    assert not {seed for _, seed, _ in FITTED_ON} & ({seed for _, seed, _ in OTHERS} | {*MODES})


def test_solvers_are_nearer_on_it_on_a_mixture_that_it_was_not_fitted_on() -> None:
    errors = Errors(OTHERS[:1], CHAIN, count=16)
    for name in TAKERS:
        for grid in ("straight", "trailing", "even"):
            assert errors.on(name, "optimised", 20) < errors.on(name, grid, 20), (name, grid)


@pytest.mark.full
def test_the_fit_finds_the_shape_again() -> None:
    shape, _ = fitted()
    assert shape == SHAPE


@pytest.mark.full
@pytest.mark.parametrize("path", CHAINS)
def test_solvers_that_take_it_gain_on_every_chain(path: PathName) -> None:
    found = gains(path, grids=("straight", "trailing", "even"))
    assert all(gain > 1.2 for (name, _), gain in found.items() if name in TAKERS), found


def learnt() -> Denoise:
    """Return the estimates of a small network that was trained on a mixture in two dimensions."""
    objective = Objective(ObjectiveConfig(path=CHAIN, prediction="noise"))
    network = trained(objective)

    @torch.no_grad()
    def denoise(x: Tensor, level: Level) -> Estimate:
        time = torch.full((len(x),), float(level.time_input), dtype=torch.float64)
        noise = network(x, time, Condition()).to(x.dtype)
        return Estimate(predictions.to_data("noise", noise, x, level.alpha, level.sigma), noise)

    return denoise


@pytest.mark.full
def test_solvers_that_take_it_gain_on_a_trained_network() -> None:
    path, denoise = make_path(CHAIN), learnt()
    noise = torch.randn(256, *samples(1, torch.Generator()).shape[1:], dtype=torch.float64)

    def ends(name: SolverName, times: Sequence[float]) -> Tensor:
        return KINDS[name].solve(denoise, noise, times, path, noise=lambda i: noise)

    exact = ends("rk4", make_grid("straight", path, REFERENCE_STEPS, 1.0))

    def error(name: SolverName, grid: Grid, steps: int) -> float:
        found = ends(name, make_grid(grid, path, steps, 1.0))
        return float((found - exact).flatten(1).norm(dim=1).median())

    for name in TAKERS:
        for other in ("straight", "trailing", "even"):
            ratios = [error(name, other, n) / error(name, "optimised", n) for n in COUNTS]
            print(name, other, ratios)
            assert geometric_mean(ratios) > 1.1, (name, other, ratios)
