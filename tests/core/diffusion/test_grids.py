"""Grids of times: falling, on the times of a chain, and the ones that are best as measured."""

from __future__ import annotations

import itertools
from functools import cache
from itertools import pairwise
from typing import get_args

import pytest
import torch

from core.config.loading import load
from core.diffusion.amplification import LARGEST, amplifications
from core.diffusion.grids import Grid, make_grid, own_grid
from core.diffusion.paths.kinds import make_path
from core.diffusion.paths.path import Path, PathName
from core.diffusion.predictions import Prediction
from core.diffusion.sampling import SamplerConfig, check_start, time_grid
from core.diffusion.solvers.default_grids import best_grid
from core.diffusion.solvers.kinds import KINDS, SolverName
from core.errors import UserError
from tests.core.diffusion.every_path import PATHS
from tools.bench.solver import MODES, distance, mixture

GRIDS = get_args(Grid)
BY_THEMSELVES = [
    name
    for name, kind in KINDS.items()
    if not kind.is_random and not kind.is_adaptive and not kind.tells_ends
]
OF_CHAINS = ("leading", "meta", "meta_ddim")


@pytest.mark.parametrize("kind", GRIDS)
@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("steps", [1, 2, 7, 50])
def test_times_fall_from_the_start_to_0_and_lie_on_the_chain(kind: Grid, name: PathName, steps: int) -> None:
    path = make_path(name)
    if kind in OF_CHAINS and path.num_steps is None:
        with pytest.raises(UserError, match=f"grid={kind}: expected another"):
            make_grid(kind, path, steps, 1.0)
        return
    if kind.startswith("meta"):
        return  # test_respacings_are_those_of_dit
    times = make_grid(kind, path, steps, 0.97 if steps > 1 else 1.0)
    assert len(times) == steps + 1
    assert times[-1] == 0
    assert all(a > b for a, b in pairwise(times))
    if kind != "leading":
        assert times[0] == pytest.approx(0.97 if steps > 1 else 1.0, abs=1e-12)
    if path.num_steps is not None:
        assert all(time * 1000 == pytest.approx(round(time * 1000), abs=1e-9) for time in times)


@pytest.mark.parametrize("kind", [kind for kind in GRIDS if kind not in ("leading", "meta_ddim")])
def test_all_steps_of_a_chain_are_the_chain(kind: Grid) -> None:
    times = make_grid(kind, make_path("ddpm_linear"), 1000, 1.0)
    assert times == [place / 1000 for place in range(1000, -1, -1)]


def test_respacings_by_sections_are_those_of_improved_diffusion() -> None:
    """By hand: 1000 in 3 parts are 334, 333 and 333 indices, each as even as rounding lets it be."""
    chain = make_path("ddpm_linear")
    times = make_grid("meta", chain, 9, 1.0, sections=(4, 3, 2))
    found = [round(time * 1000) - 1 for time in times[:-1]][::-1]
    assert found == [0, 111, 222, 333, 334, 500, 666, 667, 999]
    assert make_grid("meta", chain, 50, 1.0, sections=(50,)) == make_grid("meta", chain, 50, 1.0)
    with pytest.raises(UserError, match=r"sections=\[501, 2\]: expected at most 500 steps of part 1"):
        make_grid("meta", chain, 503, 1.0, sections=(501, 2))
    with pytest.raises(UserError, match=r"sections=\[2, 3\]: expected numbers above 0 whose sum is steps=6"):
        SamplerConfig(grid="meta", steps=6, sections=(2, 3))


def test_respacings_are_those_of_dit() -> None:
    """Against the indices of the respacings "250", "7" and "ddim50" of improved diffusion."""
    chain = make_path("ddpm_linear")
    times = make_grid("meta", chain, 250, 1.0)
    indices = [round(time * 1000) - 1 for time in times[:-1]][::-1]
    assert (indices[:6], indices[-3:]) == ([0, 4, 8, 12, 16, 20], [991, 995, 999])
    assert sum(indices) == 124875
    sevenths = [round(time * 1000) - 1 for time in make_grid("meta", chain, 7, 1.0)[:-1]][::-1]
    assert sevenths == [0, 166, 333, 500, 666, 832, 999]
    whole = [round(time * 1000) - 1 for time in make_grid("meta_ddim", chain, 50, 1.0)[:-1]][::-1]
    assert whole == list(range(0, 1000, 20))
    with pytest.raises(UserError, match="steps=60: expected 59 or 63 with grid=meta_ddim"):
        make_grid("meta_ddim", chain, 60, 1.0)
    with pytest.raises(UserError, match=r"start=0\.9: expected 1 with grid=meta"):
        make_grid("meta", chain, 60, 0.9)


def test_a_list_of_ones_own_is_checked() -> None:
    chain, flow = make_path("ddpm_linear"), make_path("rectified_flow")
    assert own_grid([1.0, 0.5, 0.1], chain, 3, 1.0) == [1.0, 0.5, 0.1, 0.0]
    assert own_grid([0.9, 0.123456], flow, 2, 0.9) == [0.9, 0.123456, 0.0]
    for times, path, message in (
        ([1.0, 0.5], chain, "3 times, as steps says"),
        ([1.0, 0.1, 0.5], chain, "times that fall"),
        ([1.0, 0.5, 0.0], flow, "times that fall"),
        ([0.9, 0.5, 0.1], flow, "times from start=1 on"),
        ([1.0, 0.50001, 0.1], chain, "multiples of 1/1000"),
    ):
        with pytest.raises(UserError, match=message):
            own_grid(times, path, 3, 1.0)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (("eta=0.5",), "eta=0.5: expected 0 with solver=euler"),
        (("solver=ddim", "eta=1.5"), "eta=1.5: expected a finite number from 0 to 1"),
        (("variance=large",), "variance=large: expected auto with solver=euler"),
        (("times=[1,0.5]", "steps=2", "grid=edm"), "grid=edm: expected auto where times are given"),
        (("times=[1,0.5]", "steps=2", "shift=3"), "shift=3.0: expected 1 where times are given"),
        (("solver=plms",), "solver=plms: expected euler, heun"),
        (("steps=0",), "steps=0: expected an integer, at least 1"),
    ],
)
def test_settings_that_cannot_act_are_refused(fields: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load(SamplerConfig, overrides=list(fields))


def errors(
    solver: SolverName, grid: Grid | None, path: Path, evaluations: int, exact: list[torch.Tensor]
) -> float:
    """Return the geometric mean over mixtures of the median error of 64 starts."""
    steps = evaluations // KINDS[solver].evaluations
    times = make_grid(grid or best_grid(solver, steps, path, "v"), path, steps, 1.0)
    ends = [
        KINDS[solver].solve(mixture(modes), starts(path), times, path, noise=lambda i: starts(path))
        for modes in MODES
    ]
    return distance(ends, exact)


def starts(path: Path) -> torch.Tensor:
    noise = torch.randn(64, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return noise * path.sigma(torch.tensor(1.0, dtype=torch.float64)) if path.scales_input else noise


@cache
def on_the_whole_chain() -> list[torch.Tensor]:
    """Return where the starts end in a thousand steps, for each mixture."""
    path = make_path("ddpm_linear")
    chain = make_grid("even", path, 1000, 1.0)
    return [
        KINDS["unipc_2"].solve(mixture(modes), starts(path), chain, path, noise=lambda i: starts(path))
        for modes in MODES
    ]


@cache
def by_many_steps(name: PathName) -> list[torch.Tensor]:
    path = make_path(name)
    times = make_grid("straight", path, 200, 1.0)
    noise = starts(path)
    return [KINDS["rk4"].solve(mixture(modes), noise, times, path, noise=lambda i: noise) for modes in MODES]


@pytest.mark.parametrize("name", ["edm", "variance_exploding"])
def test_where_noise_grows_the_default_grids_are_no_worse_than_trailing_and_even_times(
    name: PathName,
) -> None:
    path, exact = make_path(name), by_many_steps(name)
    ratios = list[float]()
    for solver in BY_THEMSELVES:
        found = errors(solver, None, path, 20, exact)
        others = [errors(solver, other, path, 20, exact) / found for other in ("trailing", "even")]
        assert min(others) >= 1 - 1e-12, (solver, others)  # the same times to rounding
        ratios.append(min(others))
    assert float(torch.tensor(ratios).log().mean().exp()) >= 1.2, ratios


@pytest.mark.parametrize("prediction", ["noise", "score"])
def test_where_noise_grows_long_first_steps_are_not_taken_with_a_predicted_noise(
    prediction: Prediction,
) -> None:
    path = make_path("edm")
    assert best_grid("unipc_2", 50, path, "edm") == "optimised"
    assert best_grid("unipc_2", 50, path, prediction) == "even"
    assert check_start(SamplerConfig(solver="unipc_2"), path, prediction) == ""


def require_worth(path: Path, exact: list[torch.Tensor]) -> None:
    ddim = {count: errors("ddim", None, path, count, exact) for count in (20, 100)}
    for solver in ("dpmpp_2m", "unipc_2", "unipc_3"):
        assert errors(solver, None, path, 20, exact) <= ddim[20] / 3, solver
        assert errors(solver, None, path, 50, exact) <= ddim[100], solver


CLOSER = {
    ("ddpm_cosine", "dpmpp_2m", 50): "trailing",
    ("ddpm_cosine", "rk4", 50): "both, 0.0001 for 0.0002",
    ("ddpm_scaled_linear", "midpoint", 20): "trailing, by a tenth",
    ("ddpm_scaled_linear", "midpoint", 50): "both, by a fifth of 0.0006",
    ("ddpm_scaled_linear", "dpmpp_3m_diffusers", 50): "even",
}
"""Where another grid is nearer than the default one on these mixtures (docs/method.md)."""


@pytest.mark.full
@pytest.mark.parametrize("name", ["ddpm_linear", "ddpm_cosine", "ddpm_scaled_linear", "ddpm_sigmoid"])
def test_on_chains_no_default_grid_is_farther_off_than_trailing_and_even_times(name: PathName) -> None:
    path, exact = make_path(name), by_many_steps(name)
    farther = set()
    for solver, count in itertools.product(BY_THEMSELVES, (10, 20, 50)):
        found = errors(solver, None, path, count, exact)
        others = [errors(solver, other, path, count, exact) for other in ("trailing", "even")]
        if found > 1.001 * min(others):
            farther.add((name, solver, count))
    assert farther <= CLOSER.keys()


@pytest.mark.full
@pytest.mark.parametrize("name", ["rectified_flow", "edm", "variance_exploding"])
def test_solvers_of_higher_order_are_worth_their_name_off_chains(name: PathName) -> None:
    require_worth(make_path(name), by_many_steps(name))


def test_solvers_of_higher_order_are_worth_their_name_on_the_default_grids() -> None:
    path, exact = make_path("ddpm_linear"), on_the_whole_chain()
    require_worth(path, exact)
    names: tuple[SolverName, ...] = (
        "ddim",
        "midpoint",
        "dpmpp_2m",
        "dpmpp_2s",
        "dpmpp_3m",
        "unipc_2",
        "unipc_3",
    )
    for other in ("trailing", "even"):
        ratios = [
            errors(name, other, path, 20, exact) / errors(name, None, path, 20, exact) for name in names
        ]
        assert float(torch.tensor(ratios).log().mean().exp()) >= 1.2, (other, ratios)


NEARER: dict[SolverName, Grid] = {
    "heun": "cosine",
    "dpmpp_2s": "cosine",
    "dpmpp_3m": "optimised",
    "dpmpp_3m_diffusers": "optimised",
    "unipc_3": "optimised",
    "unipc_1": "optimised",
}


@pytest.mark.parametrize("solver", [name for name, kind in KINDS.items() if not kind.is_adaptive])
def test_on_rectified_flow_default_grids_are_even_times_but_where_others_are_nearer(
    solver: SolverName,
) -> None:
    """Even times are those of trailing and of linspace there."""
    path, eta = make_path("rectified_flow"), 0.5 if "maruyama" in solver else 0.0
    found = time_grid(SamplerConfig(solver=solver, steps=20, eta=eta), path, "v")
    assert found == pytest.approx(make_grid(NEARER.get(solver, "even"), path, 20, 1.0), abs=1e-12)
    even = [make_grid(other, path, 20, 1.0) for other in ("trailing", "even", "straight")]
    assert even[0] == pytest.approx(even[1], abs=1e-12)
    assert even[0] == pytest.approx(even[2], abs=1e-12)
    few = SamplerConfig(solver=solver, steps=3 if KINDS[solver].evaluations > 1 else 7, eta=eta)
    assert time_grid(few, path, "v") == make_grid("even", path, few.steps, 1.0)
    noisy = time_grid(SamplerConfig(solver=solver, steps=20, eta=eta, start=0.98), path, "noise")
    assert noisy == make_grid("even", path, 20, 0.98)


def test_on_rectified_flow_the_default_grids_are_nearer_than_even_times() -> None:
    path, exact = make_path("rectified_flow"), by_many_steps("rectified_flow")
    for solver in NEARER:
        for count, least in ((20, 1.2), (50, 1.1)):
            even, default = (errors(solver, grid, path, count, exact) for grid in ("even", None))
            assert even / default > least, (solver, count, even / default)


def test_few_steps_take_times_that_enlarge_no_errors() -> None:
    path = make_path("ddpm_linear")
    for steps in range(4, 30):
        times = time_grid(SamplerConfig(solver="dpmpp_2m", steps=steps), path, "v")
        assert max(amplifications("noise", path, times)) <= LARGEST, steps
    few, more = SamplerConfig(solver="unipc_2", steps=8), SamplerConfig(solver="unipc_2", steps=20)
    assert time_grid(few, path, "v") == make_grid("trailing", path, 8, 1.0)
    assert time_grid(more, path, "v") == make_grid("straight", path, 20, 1.0)
    assert time_grid(SamplerConfig(solver="heun", steps=8), path, "v") == make_grid("even", path, 8, 1.0)
    assert time_grid(SamplerConfig(steps=20), make_path("rectified_flow"), "v")[1] == 0.95


@pytest.mark.parametrize("solver", ["dpmpp_2m", "dpmpp_3m", "unipc_2", "unipc_3", "midpoint", "rk4"])
def test_few_steps_are_nearer_on_the_default_grid_than_on_even_times(solver: SolverName) -> None:
    path = make_path("ddpm_linear")
    exact = on_the_whole_chain()
    evaluations = 8 * KINDS[solver].evaluations
    assert errors(solver, None, path, evaluations, exact) < errors(solver, "even", path, evaluations, exact)
