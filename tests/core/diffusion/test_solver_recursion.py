"""Every fixed-step solver on Gaussian data, held to a recursion in float64 that is written anew.

Mean, variance and the covariance with the start follow from it (for multistep solvers through their history).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from core.batch import Condition
from core.diffusion.estimating import estimating
from core.diffusion.generating import sample
from core.diffusion.grids import Grid, make_grid
from core.diffusion.guidance.branches import by_condition, guided_by
from core.diffusion.guidance.mixing import Guidance
from core.diffusion.objectives.noised import Model
from core.diffusion.paths.kinds import make_path
from core.diffusion.paths.path import Path, PathName
from core.diffusion.predictions import Prediction, level_before, target
from core.diffusion.sampling import SamplerConfig
from core.diffusion.solvers.kinds import KINDS
from core.diffusion.solvers.levels import Denoise, Estimate, Level, levels_at
from core.diffusion.thresholds import ThresholdConfig
from core.draws import Draws
from tests.core.diffusion.every_path import CHAINS, PATHS
from tests.core.diffusion.every_path import KINDS as PREDICTIONS
from tests.core.diffusion.every_solver import CASES
from tests.core.diffusion.recursions import first_order, renoised
from tests.core.diffusion.tracked import MEAN, VARIANCE, found_by, gain, moments, variance_of

GRIDS: tuple[Grid, ...] = get_args(Grid)
OF_CHAINS = ("leading", "meta", "meta_ddim")
STEPS = 10  # a divisor of 1000, as grid=meta_ddim takes it
CLOSE: dict[str, Any] = {"rtol": 0, "atol": 1e-10}
NO_V: tuple[PathName, ...] = ("edm", "variance_exploding")


def require_recursion(name: PathName, case: str, grid: Grid) -> None:
    path, of = make_path(name), CASES[case]
    times = make_grid(grid, path, STEPS, 1.0)
    found = found_by(of.solver, of.options, path, times)
    torch.testing.assert_close(moments(found), moments(of.recursion(path, times)), **CLOSE)


def test_no_solver_is_left_out() -> None:
    """The adaptive one is held to its own steps, that of average velocities to the exact flow, elsewhere."""
    fixed = {name for name, kind in KINDS.items() if not kind.is_adaptive and not kind.tells_ends}
    assert {case.solver for case in CASES.values()} == fixed


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("case", CASES)
def test_a_solver_follows_its_recursion(name: PathName, case: str) -> None:
    require_recursion(name, case, "even")


@pytest.mark.full
@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("grid", [grid for grid in GRIDS if grid != "even"])
def test_a_solver_follows_its_recursion_on_every_grid(name: PathName, case: str, grid: Grid) -> None:
    if grid not in OF_CHAINS or name in CHAINS:
        require_recursion(name, case, grid)


def network_of(path: Path, prediction: Prediction, known: Sequence[float] = ()) -> Model:
    """Return the exact network of a prediction, in the dtype of what it sees.

    known: holds the time in float64, where the one that the network is told, in float32, does not do.
    """

    def network(seen: Tensor, time: Tensor, condition: Condition) -> Tensor:
        t = float(time[0]) / 1000 if path.num_steps is None else (float(time[0]) + 1) / path.num_steps
        at = torch.tensor([known[0] if known else t], dtype=torch.float64)
        alpha, sigma = float(path.alpha(at)), float(path.sigma(at))
        x = seen * (alpha**2 + sigma**2) ** 0.5 if path.scales_input else seen
        g, c = gain(alpha, sigma)
        data = g * x + c
        before = None
        if prediction == "posterior_mean":
            before = tuple(float(part) for part in level_before(path, at))
        return target(prediction, data, (x - alpha * data) / sigma, alpha, sigma, before)  # type: ignore[arg-type]

    return network


def exact(path: Path, prediction: Prediction) -> Denoise:
    """Return the estimates that `sample` makes of such a network's output, of a batch (B,)."""
    known: list[float] = []
    estimates = estimating(
        guided_by(by_condition(network_of(path, prediction, known), Condition(), 1.0)),
        Guidance(),
        ThresholdConfig(),
        path,
        prediction,
        1,
        learned_sigma=False,
    )

    def flat(x: Tensor, level: Level) -> Estimate:
        known[:] = [level.t]
        found = estimates(x[:, None], level)
        return Estimate(found.data[:, 0], found.noise[:, 0])

    return flat


def of_predictions() -> list[tuple[PathName, Prediction]]:
    """Return every path with every prediction that it has."""
    pairs = [(name, kind) for name in PATHS for kind in PREDICTIONS]
    return [
        (name, kind)
        for name, kind in pairs
        if not (kind == "posterior_mean" and name not in CHAINS) and not (kind == "v" and name in NO_V)
    ]


COVERING: list[tuple[PathName, Prediction]] = [
    ("rectified_flow", "data"),
    ("ddpm_linear", "noise"),
    ("ddpm_cosine", "posterior_mean"),
    ("edm", "edm"),
]


@pytest.mark.parametrize(
    ("name", "kind"),
    [pytest.param(*pair, marks=() if pair in COVERING else pytest.mark.full) for pair in of_predictions()],
)
def test_it_does_so_whatever_the_network_predicts(name: PathName, kind: Prediction) -> None:
    path = make_path(name)
    start = 0.98 if name == "rectified_flow" else 1.0  # noise and score say nothing of data without signal
    times = make_grid("straight", path, STEPS, start)
    estimates = exact(path, kind)
    for of in CASES.values():
        found = found_by(of.solver, of.options, path, times, estimates)
        torch.testing.assert_close(moments(found), moments(of.recursion(path, times)), **CLOSE)


OWN: dict[PathName, Prediction] = {"rectified_flow": "flow", "edm": "edm", "variance_exploding": "edm"}


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name in ("ddpm_linear", "edm") else pytest.mark.full) for name in PATHS],
)
@pytest.mark.parametrize("case", CASES)
def test_samples_in_float32_are_those_of_the_recursion(name: PathName, case: str) -> None:
    """To 1e-5, sample by sample: its start and its draws times the factors that the solver has in float64."""
    path, kind, of, size = make_path(name), OWN.get(name, "v"), CASES[case], (1, 1, 2, 2)
    ids = torch.arange(3)
    draws, options = Draws(0, 0, ids, torch.zeros_like(ids)), of.options
    config = SamplerConfig(
        solver=of.solver,
        steps=STEPS,
        grid="straight",
        eta=options.eta,
        variance=options.variance,
        variance_share=options.variance_share,
        churn=options.churn,
        corrector=options.corrector,
        restart=options.restart,
    )
    found = sample(network_of(path, kind), (3, *size), Condition(), config, path, kind, draws)
    assert found.dtype == torch.float32
    times = make_grid("straight", path, STEPS, 1.0)
    factors = found_by(of.solver, options, path, times)
    (first,) = levels_at(path, [1.0])
    start = math.hypot(first.alpha, first.sigma) * draws.normal("sample_start", size).double()
    expected = factors[0] * start + factors[1]
    for number in torch.nonzero(factors[2:]).flatten().tolist():
        expected = expected + factors[2 + number] * draws.normal(f"sample_step_{number}", size).double()
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-5)


def test_renoising_the_mean_of_the_data_has_half_of_their_variance_in_the_limit() -> None:
    path = make_path("rectified_flow")
    found = first_order(renoised)(path, make_grid("log_snr", path, 1500, 1.0))
    assert variance_of(found) == pytest.approx(VARIANCE / 2, rel=0.02)
    assert float(found[1]) == pytest.approx(MEAN, rel=1e-3)
