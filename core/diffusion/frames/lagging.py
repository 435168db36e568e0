"""Sampling clips whose frames have noise levels of their own: given ones, and ones that follow each other.

Each group of latent frames takes the steps of the solver by itself, `lag` steps after the group before it:
with lag 0 all together, with lag = steps one after the other, between them in a window that rolls over the
clip (2402.09470, 2407.01392). What all groups ask for is estimated together, those that wait or are done
beside the others as they are. Given frames are at time 0 throughout.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from einops import rearrange, repeat
from torch import Tensor

from core.batch import Condition
from core.diffusion.paths.path import Path
from core.diffusion.solvers.levels import Denoise, Estimate, Level, TensorLevel
from core.diffusion.solvers.stepwise import Course, Stepwise


@dataclass(frozen=True)
class FrameLevel(TensorLevel):
    """Levels of all frames.  times, time_input: (B, groups).  alpha, sigma: (B, 1, T, 1, 1)."""

    times: Tensor


class _Group:
    """Frames [first, first + unit) of a clip on their way: what is asked of the network, and who is answered.

    begins: evaluations before the first that this group takes.
    """

    def __init__(
        self, solver: Stepwise, x: Tensor, course: Course, first: int, unit: int, begins: int
    ) -> None:
        frames = slice(first, first + unit)
        own = replace(course, noise=lambda number: course.noise(number)[:, :, frames])
        self._walk, self._frames, self._end = solver.begin(x[:, :, frames], own), frames, course.levels[-1]
        self.begins, self.is_done = begins, False
        self.state, self.level = next(self._walk)

    def receive(self, estimate: Estimate) -> None:
        """Take the group's part of what was estimated for all frames, and go on to what it asks next."""
        data, noise = estimate.data[:, :, self._frames], estimate.noise[:, :, self._frames]
        try:
            self.state, self.level = self._walk.send(Estimate(data, noise))
        except StopIteration as end:
            self.state, self.level, self.is_done = end.value, self._end, True


def solve_frames(
    solver: Stepwise,
    denoise: Denoise,
    x: Tensor,
    course: Course,
    unit: int,
    delay: int = 0,
    given: Tensor | None = None,
) -> Tensor:
    """Return the sample at t = 0 of a start x (B, C, T, H, W).

    unit: frames of a group.  delay: evaluations by which a group begins after the one before it.
    given: (B, T), 1 for frames that x has clean; they stay as they are, bit for bit.
    """
    starts = range(0, x.shape[2], unit)
    groups = [_Group(solver, x, course, first, unit, delay * n) for n, first in enumerate(starts)]
    is_given = None if given is None else rearrange(given > 0, "b t -> b 1 t 1 1")

    def together() -> Tensor:
        states = torch.cat([group.state for group in groups], 2)
        return states if is_given is None else torch.where(is_given, x, states)

    evaluation = 0
    while waiting := [group for group in groups if not group.is_done]:
        evaluation = max(evaluation, min(group.begins for group in waiting))
        moving = [group for group in waiting if group.begins <= evaluation]
        state = together()
        estimate = denoise(state, _level(course.path, [group.level for group in groups], state, unit, given))
        for group in moving:
            group.receive(estimate)
        evaluation += 1
    return together()


def _level(path: Path, of_groups: list[Level], x: Tensor, unit: int, given: Tensor | None) -> FrameLevel:
    row = torch.tensor([level.t for level in of_groups], dtype=torch.float64)
    times = repeat(row.to(x.device, non_blocking=True), "g -> b g", b=len(x))
    if given is not None:
        times = torch.where(given[:, ::unit] > 0, 0.0, times)
    told = path.time_input(times).float()
    frames = rearrange(times.repeat_interleave(unit, 1), "b t -> b 1 t 1 1")
    alpha, sigma = (level.to(x.dtype) for level in path.levels(frames))
    return FrameLevel(float(row.max()), alpha, sigma, told, times)


def with_given_frames(x: Tensor, condition: Condition) -> Tensor:
    """Return latents with the frames that are given in place of their own."""
    if condition.frame_mask is None or condition.frame_latents is None:
        return x
    mask = rearrange(condition.frame_mask, "b t -> b 1 t 1 1")
    return mask * condition.frame_latents + (1 - mask) * x
