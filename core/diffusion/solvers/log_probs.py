"""The distribution of a step that draws: a normal, whose log-density reinforcement learning needs.

A step is linear in its noise, so that mean and deviation follow from the solver itself, with noise 0 and 1:
no formula is written twice (DDPO, 2305.13301, eq. 4; Flow-GRPO, 2505.05470, eq. 9).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from core.diffusion.paths.path import Path
from core.diffusion.solvers.kinds import KINDS, SolverName
from core.diffusion.solvers.levels import DEFAULTS, Estimate, Level, Options
from core.errors import UserError

ONE_DRAW: tuple[SolverName, ...] = ("ddpm", "ddim", "renoise", "euler_maruyama", "sde_dpmpp")
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
) -> Transition:
    """Return the distribution of the state at times[1], from x at times[0] and what is estimated there.

    UserError for a solver without one draw a step, and for a step that draws nothing: to t = 0, or eta = 0.
    """
    if solver not in ONE_DRAW:
        raise UserError("solver", solver, f"one with one draw a step: {', '.join(ONE_DRAW)}")
    here, there = times
    if not here > there > 0:
        raise UserError("times", times, "two that fall and lie above 0, since the step to 0 draws nothing")
    mean, moved = (
        _step(solver, x, estimate, (here, there), path, options, torch.full_like(x, drawn))
        for drawn in (0.0, 1.0)
    )
    deviation = moved - mean
    if not bool((deviation > 0).all()):
        raise UserError("eta", options.eta, f"more than 0: this step of {solver} draws nothing")
    return Transition(mean, deviation)


def _step(
    solver: SolverName,
    x: Tensor,
    estimate: Estimate,
    times: tuple[float, float],
    path: Path,
    options: Options,
    noise: Tensor,
) -> Tensor:
    """Return the state after one step; a grid ends at 0, so that another one is begun, and thrown away."""
    seen: list[Tensor] = []

    def known(state: Tensor, level: Level) -> Estimate:
        seen.append(state)
        return estimate

    KINDS[solver].solve(known, x, [*times, 0.0], path, noise=lambda number: noise, options=options)
    return seen[1]
