"""The distribution of training times over t, sampled by inverse transform of a keyed uniform draw."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from core.config.settings import setting
from core.diffusion.paths import Path
from core.errors import UserError


@dataclass(frozen=True, kw_only=True)
class TimestepConfig:
    kind: Literal["uniform", "logit_normal"] = setting(
        "uniform", "distribution of t; logit_normal puts more weight on the middle of the path"
    )
    mean: float = setting(0.0, "logit_normal: mean of logit(t); positive means noisier")
    std: float = setting(1.0, "logit_normal: standard deviation of logit(t)", low=1e-3)
    shift: float = setting(1.0, "moves times towards noise, for large inputs; 1 is off")

    def __post_init__(self) -> None:
        if self.shift <= 0:
            raise UserError("shift", self.shift, "a number above 0")


def draw(config: TimestepConfig, path: Path, u: Tensor) -> Tensor:
    """Return times in (0, 1] from uniforms `u` (B,) in (0, 1); for N steps, on the grid (i + 1) / N.

    logit_normal and shift: Esser et al., arXiv:2403.03206, eq. 19 and 23.
    """
    t = u
    if config.kind == "logit_normal":
        t = torch.sigmoid(config.mean + config.std * torch.special.ndtri(u))
    t = shifted(t, config.shift)
    if path.num_steps is None:
        return t
    return (torch.ceil(t * path.num_steps) / path.num_steps).clamp(1 / path.num_steps, 1)


def shifted(t: Tensor, shift: float) -> Tensor:
    """Return shift t / (1 + (shift - 1) t): the same path with the odds t : (1 - t) multiplied by `shift`."""
    return t if shift == 1 else shift * t / (1 + (shift - 1) * t)
