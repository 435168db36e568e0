"""The solvers by name. A new one is a function here or a file beside this one, and a line in the table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, Literal, TypedDict

from core.diffusion.grids import Grid
from core.diffusion.paths.path import PathName
from core.diffusion.solvers.adaptive import dopri5
from core.diffusion.solvers.ancestral import ddpm
from core.diffusion.solvers.average_flow import mean_flow
from core.diffusion.solvers.ddim import ddim, renoise
from core.diffusion.solvers.dpm import (
    dpmpp_2m,
    dpmpp_2s,
    dpmpp_3m,
    dpmpp_3m_diffusers,
    sde_dpmpp,
    sde_dpmpp_2m,
)
from core.diffusion.solvers.levels import DEFAULTS, Options, Solver
from core.diffusion.solvers.noisy import edm, euler_maruyama, langevin, restart
from core.diffusion.solvers.runge_kutta import heun, midpoint, rk4
from core.diffusion.solvers.stepwise import Stepwise
from core.diffusion.solvers.unipc import unipc_1, unipc_2, unipc_3
from core.errors import UserError

SolverName = Literal[
    "euler",
    "heun",
    "ddim",
    "ddpm",
    "renoise",
    "midpoint",
    "rk4",
    "dpmpp_2m",
    "dpmpp_2s",
    "dpmpp_3m",
    "dpmpp_3m_diffusers",
    "unipc_2",
    "unipc_3",
    "sde_dpmpp",
    "sde_dpmpp_2m",
    "unipc_1",
    "euler_maruyama",
    "langevin",
    "edm",
    "restart",
    "dopri5",
    "mean_flow",
]


@dataclass(frozen=True)
class Kind:
    """A solver.  evaluations: of the network in a step.  is_random: whether it draws in its steps.
    chain_grid: the grid that is best for it on a chain, as measured (docs/method.md).
    few_steps_grid: the same of fewer than ten steps, none of which enlarges errors much.
    many_steps_grid: the same from forty steps on, None for chain_grid.  chains: on single chains, by path, of
    ten steps or more.
    edm_grid, exploding_grid: the best on the paths `edm` and `variance_exploding`.
    least_steps: with fewer, even times are better on these two and on the linear chains.
    flow_grid: the best on rectified flow, from eight evaluations on.
    is_adaptive: whether it chooses its own steps, so that those of a grid do not count.
    tells_ends: whether the network is told where a step ends, which only one of two times understands.
    takes: the fields of `Options` that it reads; others must be left at their defaults.
    not_for_frames: why frames with levels of their own cannot be solved by it; "" where they can."""

    solve: Solver
    evaluations: int = 1
    is_random: bool = False
    is_adaptive: bool = False
    tells_ends: bool = False
    chain_grid: Grid = "even"
    few_steps_grid: Grid = "even"
    many_steps_grid: Grid | None = None
    chains: Mapping[PathName, Grid] = field(default_factory=dict)
    edm_grid: Grid = "even"
    exploding_grid: Grid = "even"
    least_steps: int = 0
    flow_grid: Grid = "even"
    takes: tuple[str, ...] = ()
    not_for_frames: str = ""

    def evaluations_with(self, options: Options) -> int:
        """Return the evaluations of a step, with those that an option adds."""
        corrections = options.corrector.steps if "corrector" in self.takes else 1
        return self.evaluations + corrections - 1


def require_taken(solver: SolverName, options: Options) -> None:
    """Raise UserError for an option that is set although the solver does not read it."""
    for option in fields(options):
        value, usual = getattr(options, option.name), getattr(DEFAULTS, option.name)
        if value != usual and option.name not in KINDS[solver].takes:
            takers = " or ".join(name for name, kind in KINDS.items() if option.name in kind.takes)
            name, value, usual = _first_set(option.name, value, usual)
            shown = f"{usual:g}" if isinstance(usual, float | int) else usual
            expected = f"{shown} with solver={solver}; solver={takers} takes it"
            raise UserError(name, value, expected)
    if solver == "euler_maruyama" and not options.eta:
        raise UserError("eta", 0, "a number above 0 with solver=euler_maruyama; with 0 it is solver=euler")


def _first_set(name: str, value: Any, usual: Any) -> tuple[str, Any, Any]:
    """Return a setting's name, value and default: of a section, those of the first one that is set."""
    if not is_dataclass(usual):
        return name, value, usual
    for one in fields(usual):
        here, there = getattr(value, one.name), getattr(usual, one.name)
        if here != there:
            return f"{name}.{one.name}", here, there
    raise AssertionError(name)


def require_for_frames(solver: SolverName) -> Stepwise:
    """Return a solver's steps; UserError for one that has no form for frames at different levels."""
    kind = KINDS[solver]
    if kind.not_for_frames or not isinstance(kind.solve, Stepwise):
        others = ", ".join(name for name, each in KINDS.items() if not each.not_for_frames)
        expected = f"{others} for frames with levels of their own, since {kind.not_for_frames}"
        raise UserError("solver", solver, expected)
    return kind.solve


class _Grids(TypedDict):
    chain_grid: Grid
    few_steps_grid: Grid
    edm_grid: Grid
    exploding_grid: Grid


def _grids(chain: Grid, edm: Grid, exploding: Grid) -> _Grids:
    return {"chain_grid": chain, "few_steps_grid": "trailing", "edm_grid": edm, "exploding_grid": exploding}


_ON_CHAINS = _grids("straight", "even", "even")
_STRAIGHT = _grids("straight", "straight", "straight")
_OPTIMISED_OFF_CHAINS = _grids("straight", "optimised", "optimised")
_OPTIMISED_BUT_EXPLODING = _grids("optimised", "optimised", "even")
_SCALED: Mapping[PathName, Grid] = {"ddpm_scaled_linear": "straight"}
_TRAILING: Mapping[PathName, Grid] = {"ddpm_cosine": "trailing", "ddpm_sigmoid": "trailing"}
KINDS: dict[SolverName, Kind] = {
    "euler": Kind(ddim, **_STRAIGHT),
    "heun": Kind(
        heun, 2, edm_grid="optimised", exploding_grid="optimised", least_steps=10, flow_grid="cosine"
    ),
    "ddim": Kind(ddim, **_STRAIGHT, takes=("eta",)),
    "ddpm": Kind(ddpm, is_random=True, **_ON_CHAINS, takes=("variance", "variance_share")),
    "renoise": Kind(renoise, is_random=True),
    "midpoint": Kind(midpoint, 2, **_STRAIGHT),
    "rk4": Kind(rk4, 4, **_STRAIGHT, least_steps=3),
    "dpmpp_2m": Kind(dpmpp_2m, **_OPTIMISED_OFF_CHAINS, many_steps_grid="optimised", chains=_SCALED),
    "dpmpp_2s": Kind(
        dpmpp_2s,
        2,
        chain_grid="quadratic",
        edm_grid="optimised",
        least_steps=10,
        flow_grid="cosine",
        not_for_frames="its steps from pure noise evaluate once, others twice",
    ),
    "dpmpp_3m": Kind(dpmpp_3m, **_OPTIMISED_BUT_EXPLODING, flow_grid="optimised"),
    "dpmpp_3m_diffusers": Kind(dpmpp_3m_diffusers, **_OPTIMISED_OFF_CHAINS, flow_grid="optimised"),
    "unipc_2": Kind(unipc_2, **_OPTIMISED_OFF_CHAINS, many_steps_grid="optimised", chains=_SCALED),
    "unipc_3": Kind(unipc_3, **_OPTIMISED_BUT_EXPLODING, flow_grid="optimised"),
    "unipc_1": Kind(unipc_1, **_OPTIMISED_OFF_CHAINS, flow_grid="optimised"),
    "euler_maruyama": Kind(euler_maruyama, is_random=True, takes=("eta",)),
    "langevin": Kind(langevin, 2, is_random=True, **_ON_CHAINS, takes=("eta", "corrector")),
    "edm": Kind(edm, 2, is_random=True, takes=("churn",)),
    "restart": Kind(
        restart, 2, is_random=True, takes=("restart",), not_for_frames="it goes back to more noise"
    ),
    "dopri5": Kind(
        dopri5, 7, is_adaptive=True, takes=("adaptive",), not_for_frames="each sample has steps of its own"
    ),
    "mean_flow": Kind(
        mean_flow,
        tells_ends=True,
        not_for_frames="its network is told two times and one level for all frames",
    ),
    "sde_dpmpp": Kind(sde_dpmpp, is_random=True, **_ON_CHAINS),
    "sde_dpmpp_2m": Kind(
        sde_dpmpp_2m, is_random=True, **_ON_CHAINS, many_steps_grid="optimised", chains=_TRAILING
    ),
}
