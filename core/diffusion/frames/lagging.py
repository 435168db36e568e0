"""Sampling clips whose frames have noise levels of their own: given ones, and ones that follow each other.

Each group of latent frames steps down the same times, `lag` steps after the group before it: with lag 0 all
together, with lag = steps one after the other, between them in a window that rolls over the clip (2402.09470,
2407.01392). Given frames are at time 0 throughout.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from einops import rearrange, repeat
from torch import Tensor

from core.batch import Condition
from core.diffusion.paths.path import Path
from core.diffusion.solvers.kinds import SolverName
from core.diffusion.solvers.levels import Denoise, TensorLevel
from core.errors import UserError

SOLVERS: tuple[SolverName, ...] = ("euler", "ddim")


@dataclass(frozen=True)
class FrameLevel(TensorLevel):
    """Levels of all frames.  times, time_input: (B, groups).  alpha, sigma: (B, 1, T, 1, 1)."""

    times: Tensor


def lagged(times: Sequence[float], groups: int, lag: int) -> Tensor:
    """Return (steps + 1 + lag (groups - 1), groups) times: group g is at times[n - lag g] in row n."""
    steps, rows = len(times) - 1, len(times) + lag * (groups - 1)
    place = torch.arange(rows)[:, None] - lag * torch.arange(groups)
    return torch.tensor(list(times), dtype=torch.float64)[place.clamp(0, steps)]


def solve_frames(
    denoise: Denoise, x: Tensor, times: Tensor, path: Path, unit: int, given: Tensor | None = None
) -> Tensor:
    """Return the sample at t = 0 of a start x (B, C, T, H, W), by steps of ddim without draws.

    times: (rows, groups), falling to 0 in each column.  unit: frames of a group.  given: (B, T), 1 for frames
    that x has clean.  Frames whose time does not change in a step stay as they are, bit for bit.
    """
    levels = [_level(path, row, x, unit, given) for row in times]
    for here, there in pairwise(levels):
        estimate = denoise(x, here)
        moved = there.alpha * estimate.data + there.sigma * estimate.noise
        stays = repeat(here.times == there.times, "b g -> b 1 (g unit) 1 1", unit=unit)
        x = torch.where(stays, x, moved)
    return x


def _level(path: Path, row: Tensor, x: Tensor, unit: int, given: Tensor | None) -> FrameLevel:
    times = repeat(row.to(x.device), "g -> b g", b=len(x))
    if given is not None:
        times = torch.where(given[:, ::unit] > 0, 0.0, times)
    told = path.time_input(times).float()
    frames = rearrange(times.repeat_interleave(unit, 1), "b t -> b 1 t 1 1")
    alpha, sigma = path.alpha(frames).to(x.dtype), path.sigma(frames).to(x.dtype)
    return FrameLevel(float(row.max()), alpha, sigma, told, times)


def with_given_frames(x: Tensor, condition: Condition) -> Tensor:
    """Return latents with the frames that are given in place of their own."""
    if condition.frame_mask is None or condition.frame_latents is None:
        return x
    mask = rearrange(condition.frame_mask, "b t -> b 1 t 1 1")
    return mask * condition.frame_latents + (1 - mask) * x


def require_frame_steps(solver: SolverName, eta: float) -> None:
    """Refuse solvers that have no form for frames at different levels."""
    if solver not in SOLVERS or eta:
        expected = f"{' or '.join(SOLVERS)} without eta, for frames with levels of their own"
        raise UserError("solver", solver, expected)
