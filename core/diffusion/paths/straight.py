"""The straight path of rectified flow."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from core.diffusion.paths.path import PathName


@dataclass(frozen=True)
class RectifiedFlow:
    """The straight line alpha = 1 - t, sigma = t (Liu et al. 2209.03003; Lipman et al. 2210.02747)."""

    name: PathName = "rectified_flow"
    num_steps: int | None = None
    first: float = 0.0
    scales_input: bool = False

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - t

    def sigma(self, t: Tensor) -> Tensor:
        return t

    def levels(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return self.alpha(t), self.sigma(t)

    def time_input(self, t: Tensor) -> Tensor:
        return 1000 * t

    def time_of(self, log_ratio: Tensor) -> Tensor:
        return torch.sigmoid(log_ratio)  # sigma / alpha = t / (1 - t)
