"""Classifier guidance (Dhariwal and Nichol, arXiv:2105.05233): the score plus a classifier's gradient."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from core.diffusion.paths.path import Path
from core.diffusion.predictions import network_input
from core.diffusion.solvers.levels import Estimate, Level

Classifier = Callable[[Tensor, Tensor], Tensor]
"""Of noisy latents as a network sees them, and times (B,) as it is told them: log p of classes (B, K)."""


@dataclass(frozen=True)
class ClassifierGuide:
    """A classifier and the classes (B,) to guide samples to, -1 for none.  scale: 0 has no effect."""

    classifier: Classifier
    label: Tensor
    scale: float

    def apply(self, estimate: Estimate, x: Tensor, level: Level, path: Path) -> Estimate:
        """Return the estimate whose score is moved by scale * grad log p(label | x_t).

        The score is -noise / sigma, and data follow from x_t. Where there is no signal x_t tells nothing of
        the class, and the estimate stays.
        """
        if not self.scale or level.alpha == 0 or level.sigma == 0:
            return estimate
        moved = self.scale * level.sigma * self.gradient(x, level, path)
        data = estimate.data + (level.sigma / level.alpha) * moved
        return Estimate(data, estimate.noise - moved, estimate.variance_fraction)

    def gradient(self, x: Tensor, level: Level, path: Path) -> Tensor:
        """Return the gradient of log p(label | x_t) with respect to x_t, 0 for samples without a class."""
        time = torch.full((len(x),), level.time_input, dtype=torch.float32, device=x.device)
        with torch.enable_grad():
            moved = x.detach().requires_grad_()
            found = self.classifier(network_input(path, moved, level.alpha, level.sigma), time)
            chosen = found.gather(1, self.label.clamp(min=0)[:, None])[:, 0]
            (gradient,) = torch.autograd.grad((chosen * (self.label >= 0)).sum(), moved)
        return gradient
