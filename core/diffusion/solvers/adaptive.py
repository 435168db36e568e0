"""The pair of Dormand and Prince, orders 5 and 4, with a step of its own for each sample (1980, table 2)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from core.diffusion.paths.path import Path
from core.diffusion.solvers.levels import (
    DEFAULTS,
    Denoise,
    Noise,
    Options,
    TensorLevel,
    levels_at,
    noise_share,
    time_of_measure,
)
from core.errors import UserError

NODES = (0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0)
STAGES: tuple[tuple[float, ...], ...] = (
    (),
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
FOURTH = (5179 / 57600, 0.0, 7571 / 16695, 393 / 640, -92097 / 339200, 187 / 2100, 1 / 40)
ERROR = tuple(a - b for a, b in zip((*STAGES[6], 0.0), FOURTH, strict=True))
SAFETY, LEAST, MOST = 0.9, 0.2, 5.0  # of the factor from step to step (Hairer, Norsett, Wanner, II.4)
LAST = 1e-3  # time at which a continuous path ends, before the last step to data

Slope = Callable[[Tensor, Tensor], Tensor]
"""dy/dr of states (B, D) at places r (B,)."""


@dataclass
class Steps:
    """The steps that each sample accepted: place and length (B,) of each trial, and whether it counted."""

    place: list[Tensor] = field(default_factory=list)
    length: list[Tensor] = field(default_factory=list)
    accepted: list[Tensor] = field(default_factory=list)

    def of(self, sample: int) -> list[tuple[float, float]]:
        """Return place and length of the steps of one sample."""
        rows = zip(self.place, self.length, self.accepted, strict=True)
        return [(float(r[sample]), float(h[sample])) for r, h, kept in rows if bool(kept[sample])]


def integrate(
    slope: Slope, y: Tensor, first: float, last: float, tolerance: float, most: int
) -> tuple[Tensor, Steps]:
    """Return the state (B, D) at `last` of one at `first`, and the steps taken.

    A step counts where its estimated error, in the root mean square over a sample's numbers, is below
    tolerance (1 + abs(y)). No sample's steps depend on the others. A sample whose slope is NaN ends as NaN.
    most: trials; UserError where they do not suffice.
    """
    r, h = (y.new_full((len(y),), value) for value in (first, (last - first) / 20))
    steps, active = Steps(), torch.ones(len(y), dtype=torch.bool, device=y.device)
    known = slope(y, r)
    for _ in range(most):
        h = torch.where((r + h - last) * (last - first) > 0, last - r, h)
        h = torch.where(active, h, 0.0)
        trial, error, end = _trial(slope, y, r, h, known)
        scale = tolerance * (1 + torch.maximum(y.abs(), trial.abs()))
        norm = (error / scale).square().mean(1).sqrt()
        good, is_lost = active & (norm <= 1), active & norm.isnan()
        steps.place.append(r)
        steps.length.append(h)
        steps.accepted.append(good)
        y, known = (torch.where(good[:, None], new, old) for new, old in ((trial, y), (end, known)))
        y = y.masked_fill(is_lost[:, None], torch.nan)  # no length of a step would bring it back
        is_last = good & (h == last - r)
        r = torch.where(is_last, last, torch.where(good, r + h, r))
        active = active & ~(is_last | is_lost)
        h = h * (SAFETY * norm.clamp(min=1e-10) ** -0.2).clamp(LEAST, MOST)
        if not bool(active.any()):
            return y, steps
    raise UserError("most", most, f"more: {int(active.sum())} samples are not at their end")


def _trial(slope: Slope, y: Tensor, r: Tensor, h: Tensor, known: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the state after a step, its estimated error, and the slope there."""
    found, moved = [known], y
    for node, factors in zip(NODES[1:], STAGES[1:], strict=True):
        moved = y + h[:, None] * sum(a * k for a, k in zip(factors, found, strict=True) if a)
        found.append(slope(moved, r + node * h))
    error = h[:, None] * sum(e * k for e, k in zip(ERROR, found, strict=True) if e)
    return moved, error, found[-1]


def dopri5(
    denoise: Denoise,
    x: Tensor,
    times: Sequence[float],
    path: Path,
    *,
    noise: Noise,
    options: Options = DEFAULTS,
) -> Tensor:
    """Solve the flow in the straight variables to `options.adaptive.tolerance`, by steps of its own.

    Of the grid only the start counts. It ends at the first time of a chain, on continuous paths at 1e-3, or
    at what a path trains first; from there the midpoint rule steps to data.
    """
    start, last = levels_at(path, [times[0], path.first or LAST])
    z = (x / (start.alpha + start.sigma)).reshape(len(x), -1)

    def slope(y: Tensor, r: Tensor) -> Tensor:
        level = level_of(path, r, x.ndim)
        size = (level.alpha + level.sigma).to(y.dtype)
        estimate = denoise(y.reshape(x.shape) * size, level)
        return (estimate.noise - estimate.data).reshape(y.shape)

    limits = options.adaptive
    y, _ = integrate(slope, z, start.straight, last.straight, limits.tolerance, limits.most)
    place = y.new_full((len(y),), last.straight)
    half = y - last.straight / 2 * slope(y, place)
    return (y - last.straight * slope(half, place / 2)).reshape(x.shape).to(x.dtype)


def level_of(path: Path, r: Tensor, dimensions: int) -> TensorLevel:
    """Return the levels at which the share of noise is r (B,), for states of so many dimensions."""
    t = time_of_measure(path, r.double(), noise_share)
    shape = (-1, *(1,) * (dimensions - 1))
    alpha, sigma = (level.reshape(shape).to(r.dtype) for level in path.levels(t))
    return TensorLevel(float(t.max()), alpha, sigma, path.time_input(t).float())
