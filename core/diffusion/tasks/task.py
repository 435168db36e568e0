"""The task of a batch of samples beside their conditions, and the state at which sampling begins."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from core.diffusion.paths.path import Path
from core.diffusion.solvers.levels import Denoise, Estimate, Level, levels_at
from core.diffusion.tasks.projection import projecting
from core.diffusion.tasks.windows import Windows

Keep = Literal["replacement", "projection"]
Observe = Callable[[Tensor, Level, Estimate], None]
"""Is shown a state, its level and the estimate there."""


@dataclass(frozen=True)
class Task:
    """The task of a batch: known parts of its samples, starts of their own, and windows of frames.

    noise: (B, C, T, H, W) that they begin from, in place of that of their draws.
    known: (B, C, T, H, W) latents that they keep or begin from.
    kept: (B, 1, T, H, W), 1 where `known` stays; None keeps nothing.  keep: how.
    start_time: at which samples begin from `known` under noise (SDEdit, 2108.01073); None is pure noise.
    windows: of frames that the network sees at once; None is all.
    observe: is shown every evaluation.
    """

    noise: Tensor | None = None
    known: Tensor | None = None
    kept: Tensor | None = None
    start_time: float | None = None
    windows: Windows | None = None
    observe: Observe | None = None
    keep: Keep = "replacement"

    def begin(self, noise: Tensor, path: Path, time: float, deviation: float) -> Tensor:
        """Return the start at a time.  noise: of unit variance.  deviation: of a start of noise alone."""
        if self.start_time is None or self.known is None:
            return noise * deviation
        level = levels_at(path, [time])[0]
        return level.alpha * self.known + level.sigma * noise

    def over(self, denoise: Denoise, noise: Tensor) -> Denoise:
        """Return estimates that keep what is known, and are shown to who observes."""
        kept, known, observe = self.kept, self.known, self.observe
        if kept is not None and known is not None:
            if self.keep == "projection":
                denoise = projecting(denoise, known, kept)
            else:
                denoise = replacing(denoise, known, kept, noise)
        if observe is None:
            return denoise
        shown, inner = observe, denoise

        def observed(x: Tensor, level: Level) -> Estimate:
            estimate = inner(x, level)
            shown(x, level, estimate)
            return estimate

        return observed

    def end(self, x: Tensor) -> Tensor:
        """Return a sample with what is known in place."""
        if self.kept is None or self.known is None:
            return x
        return self.kept * self.known + (1 - self.kept) * x


NOTHING = Task()


def replacing(denoise: Denoise, known: Tensor, kept: Tensor, noise: Tensor) -> Denoise:
    """Return estimates of states with the known part replaced by itself under noise (2204.03458, 3.1).

    known, noise: (B, C, T, H, W).  kept: (B, 1, T, H, W), 1 where known.  One noise serves all levels, so the
    known part moves along the path that ends in it.
    """

    def replaced(x: Tensor, level: Level) -> Estimate:
        there = level.alpha * known + level.sigma * noise
        found = denoise(kept * there + (1 - kept) * x, level)
        data = kept * known + (1 - kept) * found.data
        return Estimate(data, kept * noise + (1 - kept) * found.noise, found.variance_fraction)

    return replaced
