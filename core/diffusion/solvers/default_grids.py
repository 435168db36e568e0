"""The grids that `sampler.grid=auto` stands for: the best for each solver and path (docs/method.md)."""

from __future__ import annotations

from core.diffusion.grids import Grid
from core.diffusion.paths.path import Path
from core.diffusion.predictions import Prediction
from core.diffusion.solvers.kinds import KINDS, Kind, SolverName

SEVERAL, MANY = 10, 40  # steps
UNEVEN = ("ddpm_linear", "ddpm_scaled_linear")  # chains of which trailing times begin with a very long step
FLOW_EVALUATIONS = 8  # the fewest at which grids of rectified flow were measured


def best_grid(solver: SolverName, steps: int, path: Path, prediction: Prediction) -> Grid:
    """Return the grid that is best for a solver, as far as that was measured.

    With few steps the first one of the best grid is so long that it enlarges errors of the network; so it is
    off chains in any number of steps where noise or score is predicted.
    """
    kind = KINDS[solver]
    if path.num_steps is not None:
        return _on_chain(kind, steps, path)
    if prediction in ("noise", "score"):
        return "even"
    if path.name == "rectified_flow":
        return kind.flow_grid if steps * kind.evaluations >= FLOW_EVALUATIONS else "even"
    if steps < kind.least_steps:
        return "even"
    return {"edm": kind.edm_grid, "variance_exploding": kind.exploding_grid}.get(path.name, "even")


def _on_chain(kind: Kind, steps: int, path: Path) -> Grid:
    if steps < SEVERAL:
        return "even" if steps < kind.least_steps and path.name in UNEVEN else kind.few_steps_grid
    usual = kind.many_steps_grid if kind.many_steps_grid and steps >= MANY else kind.chain_grid
    return kind.chains.get(path.name, usual)


def earlier_grid(solver: SolverName, steps: int, path: Path, prediction: Prediction) -> Grid:
    """Return what `auto` was before grids were measured off chains, of solvers that draw, and `optimised`."""
    kind = KINDS[solver]
    if path.num_steps is None or kind.is_random:
        return "even"
    if steps < SEVERAL:
        return kind.few_steps_grid
    return "straight" if kind.chain_grid == "optimised" else kind.chain_grid
