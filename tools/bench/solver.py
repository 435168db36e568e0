"""Measure solvers: arithmetic of a step beside diffusers' schedulers, and error against evaluations."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from core.diffusion.grids import Grid, make_grid
from core.diffusion.paths.kinds import make_path
from core.diffusion.paths.path import PathName
from core.diffusion.solvers.default_grids import best_grid
from core.diffusion.solvers.kinds import KINDS, SolverName
from core.diffusion.solvers.levels import DEFAULTS, AdaptiveConfig, Denoise, Estimate, Level, Options
from tools.bench.job import Config
from tools.bench.rounds import Floor, Row, measure
from tools.bench.scheduler_peers import PEERS
from tools.bench.schedulers import CLOSE, REPEATS, SHAPE, ways

CHAIN: PathName = "ddpm_linear"
MODES = (1, 4, 16, 64)  # Gaussians of the mixtures
DIMENSIONS, VARIANCE, STARTS = 16, 0.1, 128
EVALUATIONS = (10, 20, 50, 100)
GRID_COUNTS = (10, 20, 50)  # evaluations at which grids are compared
FINE = 400  # steps of rk4 by which the exact flow is followed
TOLERANCES = (0.1, 0.01, 0.001, 1e-4)  # of solvers that choose their steps
PLAIN_GRIDS: tuple[Grid, ...] = ("trailing", "even")
FLOW: PathName = "rectified_flow"
FLOW_LEAST, FLOW_MEAN = 0.999, 1.2  # of errors on even times over those on default grids
COMPARED: tuple[SolverName, ...] = ("dpmpp_2m", "unipc_2", "unipc_3")


def rows(config: Config, folder: Path) -> list[Row]:
    """Measure a case for each solver that diffusers has too, and one of errors."""
    return [*(_arithmetic(config, name) for name in PEERS), *_errors()]


def _arithmetic(config: Config, name: str) -> Row:
    """Time all steps with the network's outputs at hand: what is left is the solver's own work."""
    peer = PEERS[name]
    both = ways(peer)
    absent = () if len(both) > 1 else ("diffusers",)
    protocol = (
        f"steps of {peer.solver} and {peer.kind} on {SHAPE} float32 along {peer.path} from outputs "
        f"({peer.prediction}) and draws at hand, {REPEATS} times; "
        + (f"ends differ: {peer.differs}" if peer.differs else f"ends agree to {CLOSE:g}")
    )
    row = Row(name, "steps", protocol, measure(both, config.rounds), absent)
    row.require("diffusers", 1.0)
    return row


def _errors() -> list[Row]:
    """Compare errors at equal numbers of evaluations, each solver on its default grid of a chain."""
    path = make_path(CHAIN)
    fine = make_grid("straight", path, FINE, 1.0)
    problems = [mixture(count) for count in MODES]
    exact = [_solve("rk4", problem, fine) for problem in problems]
    found: list[Row] = []
    errors: dict[tuple[SolverName, int], float] = {}
    for name, kind in KINDS.items():
        if kind.is_random or kind.tells_ends:
            continue
        protocol = (
            f"median error of {STARTS} starts against the exact flow, geometric mean, mixtures of {MODES} "
            f"Gaussians, variance {VARIANCE}, {DIMENSIONS} dimensions, {CHAIN}, exact denoiser, default grid"
        )
        row = Row(f"error of {name}", "-", protocol)
        if kind.is_adaptive:
            row.facts |= _by_tolerance(name, problems, exact)
            found.append(row)
            continue
        for count in EVALUATIONS:
            steps = count // kind.evaluations
            times = make_grid(best_grid(name, steps, path, "noise"), path, steps, 1.0)
            errors[name, count] = distance([_solve(name, problem, times) for problem in problems], exact)
            row.facts[f"{count} evaluations"] = errors[name, count]
        found.append(row)
        row.facts |= _on_others(name, problems, exact)
        if name in COMPARED:
            few, many = errors["ddim", 20] / 3, errors["ddim", 100]
            row.floors.append(Floor("error at 20, a third of ddim's", errors[name, 20], few, at_most=True))
            row.floors.append(Floor("error at 50, ddim's at 100", errors[name, 50], many, at_most=True))
    return [*found, _default_grids(found), _flow_grids()]


def _on_others(name: SolverName, problems: Sequence[Denoise], exact: Sequence[Tensor]) -> dict[str, float]:
    """Return the errors on grids that need no thought."""
    path, found = make_path(CHAIN), {}
    for grid, count in itertools.product(PLAIN_GRIDS, GRID_COUNTS):
        times = make_grid(grid, path, count // KINDS[name].evaluations, 1.0)
        ends = [_solve(name, problem, times) for problem in problems]
        found[f"{count} evaluations, {grid}"] = distance(ends, exact)
    return found


def _default_grids(rows: Sequence[Row]) -> Row:
    """Compare default grids with others over all solvers: none farther off, 1.2 times as near in the mean."""
    protocol = f"errors at {GRID_COUNTS} evaluations, other grids over default ones, geometric mean"
    row = Row("default grids", "-", protocol)
    measured = [each.facts for each in rows if "20 evaluations" in each.facts]
    for grid, count in itertools.product(PLAIN_GRIDS, GRID_COUNTS):
        of_count, case = f"{count} evaluations", f"{grid} at {count}"
        ratios = torch.tensor([facts[f"{of_count}, {grid}"] / facts[of_count] for facts in measured])
        row.facts[f"{case} over default"] = mean = float(ratios.log().mean().exp())
        row.floors.append(Floor(f"{case}, of all solvers", mean, 1.2))
        row.floors.append(Floor(f"{case}, of the least one", float(ratios.min()), 1.0))
    return row


def _flow_grids() -> Row:
    """Compare default grids on rectified flow with even times, which trailing ones are too there."""
    protocol = (
        f"errors on even times over those on default grids, as above on {FLOW}, geometric mean of "
        f"{GRID_COUNTS} evaluations"
    )
    row, path = Row(f"default grids, {FLOW}", "-", protocol), make_path(FLOW)
    problems = [mixture(count) for count in MODES]
    fine = make_grid("even", path, FINE, 1.0)
    exact = [_solve("rk4", problem, fine, path=FLOW) for problem in problems]
    for name, kind in KINDS.items():
        if kind.is_random or kind.tells_ends or kind.is_adaptive:
            continue
        ratios = []
        for count in GRID_COUNTS:
            steps = count // kind.evaluations
            grids: tuple[Grid, ...] = ("even", best_grid(name, steps, path, "flow"))
            even, default = (
                distance([_solve(name, problem, times, path=FLOW) for problem in problems], exact)
                for times in (make_grid(grid, path, steps, 1.0) for grid in grids)
            )
            ratios.append(even / default)
        row.facts[name] = float(torch.tensor(ratios).log().mean().exp())
        row.floors.append(Floor(f"{name}, the least", min(ratios), FLOW_LEAST))
    mean = float(torch.tensor(list(row.facts.values())).log().mean().exp())
    row.floors.append(Floor("of all solvers", mean, FLOW_MEAN))
    return row


def _by_tolerance(name: SolverName, problems: Sequence[Denoise], exact: Sequence[Tensor]) -> dict[str, float]:
    """Return errors by tolerance, and the evaluations of the mixture that takes most of them."""
    found = {}
    for tolerance in TOLERANCES:
        options = Options(adaptive=AdaptiveConfig(tolerance=tolerance))
        counted = [Counted(problem) for problem in problems]
        ends = [_solve(name, problem, [1.0, 0.0], options) for problem in counted]
        most = max(problem.evaluations for problem in counted)
        found[f"tolerance {tolerance:g}, up to {most} evaluations"] = distance(ends, exact)
    return found


@dataclass
class Counted:
    """A denoiser that counts how often the samples that take longest are evaluated."""

    denoise: Denoise
    evaluations: int = 0

    def __call__(self, x: Tensor, level: Level) -> Estimate:
        self.evaluations += 1
        return self.denoise(x, level)


def _starts() -> Tensor:
    return torch.randn(STARTS, DIMENSIONS, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def _solve(
    name: SolverName,
    denoise: Denoise,
    times: Sequence[float],
    options: Options = DEFAULTS,
    path: PathName = CHAIN,
) -> Tensor:
    start = _starts()
    return KINDS[name].solve(denoise, start, times, make_path(path), noise=lambda i: start, options=options)


def distance(found: Sequence[Tensor], exact: Sequence[Tensor]) -> float:
    """Return the geometric mean over mixtures of the median distance of the ends."""
    medians = [(one - other).norm(dim=1).median() for one, other in zip(found, exact, strict=True)]
    return float(torch.stack(medians).log().mean().exp())


def mixture(modes: int, seed: int | None = None, variance: float = VARIANCE) -> Denoise:
    """Return the exact denoiser of Gaussians with unequal weights.  seed: None is their number."""
    generator = torch.Generator().manual_seed(modes if seed is None else seed)
    means = torch.randn(modes, DIMENSIONS, generator=generator, dtype=torch.float64) * 0.95
    weights = torch.rand(modes, generator=generator, dtype=torch.float64) + 0.2

    def denoise(x: Tensor, level: Level) -> Estimate:
        alpha, sigma = (torch.as_tensor(each, dtype=x.dtype) for each in (level.alpha, level.sigma))
        spread, each = alpha**2 * variance + sigma**2, alpha[..., None]  # a sample's own, or one of all
        apart = x[:, None] - each * means
        share = torch.softmax(-(apart**2).sum(-1) / (2 * spread) + weights.log(), 1)
        data = (share[..., None] * (means + each * variance * apart / spread[..., None])).sum(1)
        return Estimate(data, (x - level.alpha * data) / level.sigma)

    return denoise
