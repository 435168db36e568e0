"""The solvers by name. A new one is a function here or a file beside this one, and a line in the table."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

from core.diffusion.grids import Grid
from core.diffusion.solvers.ancestral import ddpm
from core.diffusion.solvers.ddim import ddim, renoise
from core.diffusion.solvers.dpm import dpmpp_2s, multistep, sde, weights_3m, weights_3m_diffusers
from core.diffusion.solvers.levels import Solver
from core.diffusion.solvers.runge_kutta import euler, heun, midpoint, rk4
from core.diffusion.solvers.unipc import unipc

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
]


@dataclass(frozen=True)
class Kind:
    """A solver.  evaluations: of the network in a step.  is_random: whether it draws in its steps.
    chain_grid: the grid that is best for it on a chain, as measured (docs/method.md).
    few_steps_grid: the same of fewer than ten steps, none of which enlarges errors much."""

    solve: Solver
    evaluations: int = 1
    is_random: bool = False
    chain_grid: Grid = "even"
    few_steps_grid: Grid = "even"


KINDS: dict[SolverName, Kind] = {
    "euler": Kind(euler, chain_grid="straight", few_steps_grid="trailing"),
    "heun": Kind(heun, 2),
    "ddim": Kind(ddim, chain_grid="straight", few_steps_grid="trailing"),
    "ddpm": Kind(ddpm, is_random=True),
    "renoise": Kind(renoise, is_random=True),
    "midpoint": Kind(midpoint, 2, chain_grid="straight", few_steps_grid="trailing"),
    "rk4": Kind(rk4, 4, chain_grid="straight", few_steps_grid="trailing"),
    "dpmpp_2m": Kind(multistep, chain_grid="straight", few_steps_grid="trailing"),
    "dpmpp_2s": Kind(dpmpp_2s, 2, chain_grid="quadratic"),
    "dpmpp_3m": Kind(
        partial(multistep, weights=weights_3m, corrects_start=True),
        chain_grid="straight",
        few_steps_grid="trailing",
    ),
    "dpmpp_3m_diffusers": Kind(
        partial(multistep, weights=weights_3m_diffusers), chain_grid="straight", few_steps_grid="trailing"
    ),
    "unipc_2": Kind(unipc, chain_grid="straight", few_steps_grid="trailing"),
    "unipc_3": Kind(partial(unipc, order=3), chain_grid="straight", few_steps_grid="trailing"),
    "sde_dpmpp": Kind(sde, is_random=True),
    "sde_dpmpp_2m": Kind(partial(sde, uses_history=True), is_random=True),
}
