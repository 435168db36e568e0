"""Fit the grid `optimised` on some mixtures of Gaussians, and compare it with the named grids on others.

`python -m tools.bench.grid_fitting FILE` writes both tables as JSON (90 s and 60 s of a core).
`core.diffusion.grids.SHAPE` is the shape that is found, and a solver whose default it is on chains gains by
it on every chain and every other mixture (`core/diffusion/solvers/kinds.py`). docs/method.md has the numbers.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from core.diffusion.amplification import LARGEST, amplifications
from core.diffusion.grids import Grid, make_grid, on_path, optimised
from core.diffusion.paths.kinds import make_path
from core.diffusion.paths.path import PathName
from core.diffusion.solvers.kinds import KINDS, SolverName
from core.diffusion.solvers.levels import Denoise
from core.files import write_json
from tools.bench.solver import DIMENSIONS, distance, mixture

Shape = tuple[float, float, float]
FITTED_ON = ((2, 102, 0.1), (8, 108, 0.03), (8, 109, 0.3), (32, 132, 0.1), (16, 116, 0.1))
OTHERS = ((3, 203, 0.05), (3, 203, 0.2), (24, 224, 0.05), (24, 224, 0.2))
"""Mixtures: Gaussians, seed, variance. `tools.bench.solver` has four more, which are none of either."""
CHAIN: PathName = "ddpm_linear"  # fitted on it
CHAINS: tuple[PathName, ...] = ("ddpm_linear", "ddpm_cosine", "ddpm_scaled_linear")
SOLVERS: tuple[SolverName, ...] = ("dpmpp_2m", "dpmpp_3m", "unipc_2", "unipc_3")
COUNTS = (10, 14, 20, 30, 50)  # evaluations
LATTICE = ((1.35, 1.5, 1.75, 2.0), (1.1, 1.2, 1.35, 1.5), (1.5, 1.8, 2.2))
WORST = 1.1  # times the error of the grid `straight`, for any solver and count
REFERENCE_STEPS = 400  # of rk4


def starts(count: int) -> Tensor:
    """Return starts of the flow, (count, DIMENSIONS) float64."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, DIMENSIONS, generator=generator, dtype=torch.float64)


def ends(name: SolverName, problem: Denoise, times: Sequence[float], path: PathName, count: int) -> Tensor:
    """Return where a solver's steps take the starts."""
    start = starts(count)
    return KINDS[name].solve(problem, start, times, make_path(path), noise=lambda i: start)


class Errors:
    """Errors of solvers on a path: geometric means over mixtures of the median over starts."""

    def __init__(self, mixtures: Sequence[tuple[int, int, float]], path: PathName, count: int = 32) -> None:
        self.path, self._count = path, count
        self._problems = [mixture(modes, seed, variance) for modes, seed, variance in mixtures]
        fine = make_grid("straight", make_path(path), REFERENCE_STEPS, 1.0)
        self._exact = [ends("rk4", problem, fine, path, count) for problem in self._problems]

    def of(self, solver: SolverName, times: Sequence[float]) -> float:
        """Return the error at these times."""
        found = [ends(solver, problem, times, self.path, self._count) for problem in self._problems]
        return distance(found, self._exact)

    def on(self, solver: SolverName, grid: Grid, evaluations: int) -> float:
        """Return the error on a grid of so many evaluations."""
        steps = evaluations // KINDS[solver].evaluations
        return self.of(solver, make_grid(grid, make_path(self.path), steps, 1.0))


def fitted() -> tuple[Shape, dict[Shape, float]]:
    """Return the shape with the least error, and the errors of all, geometric means over solvers and counts.

    Left out are shapes that for a solver and count are WORST times as far off as even shares of noise, and
    those whose first of ten steps enlarges errors of a predicted noise too much.
    """
    errors, path = Errors(FITTED_ON, CHAIN), make_path(CHAIN)
    straight = {key: errors.on(key[0], "straight", key[1]) for key in itertools.product(SOLVERS, COUNTS)}
    found: dict[Shape, float] = {}
    for shape in itertools.product(*LATTICE):
        if max(amplifications("noise", path, on_path(path, optimised(path, 10, 1.0, shape)))) > LARGEST:
            continue
        grids = {steps: on_path(path, optimised(path, steps, 1.0, shape)) for steps in COUNTS}
        own = {(name, steps): errors.of(name, grids[steps]) for name, steps in straight}
        if all(own[key] <= WORST * straight[key] for key in straight):
            found[shape] = geometric_mean(list(own.values()))
    return min(found, key=lambda shape: found[shape]), found


def gains(
    path: PathName, counts: Sequence[int] = (10, 20, 50), grids: Sequence[Grid] = ("straight",)
) -> dict[tuple[SolverName, Grid], float]:
    """Return how many times as far off solvers are on other grids, on mixtures that nothing was fitted on.

    The geometric mean over evaluations, of the less favourable of two sets of mixtures.
    """
    of_bench = [(modes, modes, 0.1) for modes in (1, 4, 16, 64)]
    found: dict[tuple[SolverName, Grid], float] = {}
    for errors in (Errors(of_bench, path), Errors(OTHERS, path)):
        for name, grid in itertools.product(SOLVERS, grids):
            ratios = [errors.on(name, grid, n) / errors.on(name, "optimised", n) for n in counts]
            found[name, grid] = min(found.get((name, grid), float("inf")), geometric_mean(ratios))
    return found


def geometric_mean(values: Sequence[float]) -> float:
    """Return the geometric mean of positive numbers."""
    return float(torch.tensor(values, dtype=torch.float64).log().mean().exp())


def tables() -> dict[str, Any]:
    """Return what was found, as JSON."""
    shape, errors = fitted()
    gained = {
        path: {f"{name} on {grid}": gain for (name, grid), gain in gains(path).items()} for path in CHAINS
    }
    return {"shape": shape, "errors": [[*key, error] for key, error in errors.items()], "gains": gained}


if __name__ == "__main__":
    write_json(Path(sys.argv[1]), tables())
