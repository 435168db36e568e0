"""Numbers of a latent by which generated and real ones are compared while a run trains.

They need no further network and no decoder: what each channel is in coarse cells of the frame, which is
composition and colour, and how much it varies within them, which is sharpness and noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool3d

from core.errors import UserError

FORMULAS = 1  # version, in rulers
SAMPLES_A_NUMBER = 3  # at least, so that their covariance means something
SIDES = (4, 2, 1)  # cells a side, the most that fit


@dataclass(frozen=True)
class LatentFeatures:
    """Means of (frames, side, side) cells of each channel, and each channel's spread within cells."""

    channels: int
    frames: int
    side: int

    @classmethod
    def fitting(cls, shapes: Sequence[tuple[int, int, int, int]], samples: int) -> Self:
        """Return the finest ones of which so many samples have a covariance of full rank.

        shapes: (C, T, H, W) of the latents.  UserError where there are too few samples for any.
        """
        channels, frames = shapes[0][0], 2 if min(shape[1] for shape in shapes) > 1 else 1
        least = min(min(shape[2:]) for shape in shapes)
        found = [cls(channels, frames, side) for side in SIDES if 2 * side <= least or side == 1]
        found.append(cls(channels, 1, 1))
        for features in found:
            if SAMPLES_A_NUMBER * features.width <= samples:
                return features
        expected = f"at least {SAMPLES_A_NUMBER * found[-1].width}, for a covariance of {channels} channels"
        raise UserError("samples", samples, expected)

    @property
    def width(self) -> int:
        return self.channels * (self.frames * self.side**2 + 1)

    @property
    def ruler(self) -> dict[str, Any]:
        """Return what a score says of them."""
        return {
            "extractor": "cells of normalised latents",
            "cells": [self.frames, self.side, self.side],
            "width": self.width,
            "precision": "float64",
            "formulas": FORMULAS,
        }

    def of(self, latents: Tensor) -> Tensor:
        """Return the numbers (B, width) float64 of normalised latents (B, C, T, H, W)."""
        x, grid = latents.double(), (self.frames, self.side, self.side)
        means = adaptive_avg_pool3d(x, grid)
        variance = (adaptive_avg_pool3d(x.square(), grid) - means.square()).clamp_min(0)
        return torch.cat([means.flatten(1), variance.mean((2, 3, 4)).sqrt()], dim=1)
