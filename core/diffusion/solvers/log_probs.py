"""The distribution of a step that draws: a normal, whose log-density reinforcement learning needs.

A step is linear in the state, in what is estimated and in its noise, so that the solver itself gives the
mean, with noise 0, and the deviation, with noise 1 and nothing else: no formula is written twice (DDPO,
2305.13301, eq. 4; Flow-GRPO, 2505.05470, eq. 9), and nothing is the small difference of large numbers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from core.diffusion.paths.path import Path
from core.diffusion.solvers.dpm import sde_dpmpp_2m_after
from core.diffusion.solvers.kinds import KINDS, SolverName
from core.diffusion.solvers.levels import DEFAULTS, Estimate, Level, Options, Solver, levels_at
from core.errors import UserError

WITH_HISTORY: SolverName = "sde_dpmpp_2m"
ONE_DRAW: tuple[SolverName, ...] = ("ddpm", "ddim", "renoise", "euler_maruyama", "sde_dpmpp", WITH_HISTORY)
"""Solvers of which a step evaluates the network once and draws once."""


@dataclass(frozen=True)
class Transition:
    """A normal distribution of the next state, in its shape; differentiable in the estimate."""

    mean: Tensor
    deviation: Tensor

    def log_prob(self, x: Tensor) -> Tensor:
        """Return the log-density (B,) of states (B, ...), summed over their numbers."""
        scaled = (x - self.mean) / self.deviation
        each = -0.5 * scaled.square() - self.deviation.log() - 0.5 * math.log(2 * math.pi)
        return each.reshape(len(x), -1).sum(1)


def transition(
    solver: SolverName,
    x: Tensor,
    estimate: Estimate,
    times: tuple[float, float],
    path: Path,
    options: Options = DEFAULTS,
    *,
    before: tuple[float, Estimate] | None = None,
) -> Transition:
    """Return the distribution of the state at times[1], from x at times[0] and what is estimated there.

    before: of sde_dpmpp_2m, the time at which the step that led to x began, and what was estimated there;
    None for its first step.
    UserError for a solver without one draw a step, and for a step that draws nothing: to t = 0, or eta = 0.
    """
    if solver not in ONE_DRAW:
        raise UserError("solver", solver, f"one with one draw a step: {', '.join(ONE_DRAW)}")
    here, there = times
    if not here > there > 0:
        raise UserError("times", times, "two that fall and lie above 0, since the step to 0 draws nothing")
    zeros = torch.zeros_like(x)
    nothing = Estimate(zeros, zeros, estimate.variance_fraction)
    plain, along = KINDS[solver].solve, (times, path, options)
    going_on = plain if before is None else _after(solver, before, here, path)
    mean = _step(going_on, x, estimate, *along, noise=zeros)
    deviation = _step(plain, zeros, nothing, *along, noise=torch.ones_like(x))  # history plays no part in it
    if not bool((deviation > 0).all()):
        raise UserError("eta", options.eta, f"more than 0: this step of {solver} draws nothing")
    return Transition(mean, deviation)


def _after(solver: SolverName, before: tuple[float, Estimate], here: float, path: Path) -> Solver:
    """Return the solver that goes on from a step before the one at `here`."""
    time, estimate = before
    if solver != WITH_HISTORY:
        raise UserError("before", time, f"none with solver={solver}; solver={WITH_HISTORY} looks back")
    if time <= here:
        raise UserError("before", time, f"a time above times[0]={here:g}")
    return sde_dpmpp_2m_after(estimate.data, *levels_at(path, [time, here]))


def _step(
    solve: Solver,
    x: Tensor,
    estimate: Estimate,
    times: tuple[float, float],
    path: Path,
    options: Options,
    *,
    noise: Tensor,
) -> Tensor:
    """Return the state after one step; a grid ends at 0, so that another one is begun, and thrown away."""
    seen: list[Tensor] = []

    def known(state: Tensor, level: Level) -> Estimate:
        seen.append(state)
        return estimate

    solve(known, x, [*times, 0.0], path, noise=lambda number: noise, options=options)
    return seen[1]
