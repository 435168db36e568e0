"""Solvers that draw: what they tend to in many steps, by their recursions, and what they do not read."""

from __future__ import annotations

import pytest

from core.diffusion.grids import make_grid
from core.diffusion.paths.kinds import make_path
from core.diffusion.solvers.kinds import require_taken
from core.diffusion.solvers.levels import ChurnConfig, CorrectorConfig, Options, RestartConfig
from core.errors import UserError
from tests.core.diffusion import noisy_recursions as noisy
from tests.core.diffusion import recursions as plain
from tests.core.diffusion.recursions import Recursion
from tests.core.diffusion.tracked import MEAN, VARIANCE, slope, variance_of

FLOW = make_path("rectified_flow")
COUNTS = (50, 100, 200, 400)
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
