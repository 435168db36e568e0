"""Clips longer than a network has seen, by overlapping windows whose outputs are blended in every evaluation.

So a window knows its neighbours through the frames that they share, at every level of noise (2302.08113 for
pictures, 2305.18264 for clips).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from einops import rearrange
from torch import Tensor

from core.batch import Condition
from core.diffusion.objectives.noised import Model
from core.errors import UserError


@dataclass(frozen=True)
class Windows:
    """Windows of `length` latent frames of which neighbours share `overlap`.  unit: frames of a level."""

    length: int
    overlap: int
    unit: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.overlap < self.length:
            expected = f"1 to {self.length - 1} latent frames, with a window of {self.length}"
            raise UserError("overlap", self.overlap, expected)
        for name in ("length", "overlap"):
            if getattr(self, name) % self.unit:
                expected = f"a multiple of {self.unit} latent frames, which share a level of noise"
                raise UserError({"length": "window"}.get(name, name), getattr(self, name), expected)

    def starts(self, frames: int) -> list[int]:
        """Return where windows begin: every `length - overlap` frames, and the last at the end."""
        if frames <= self.length:
            return [0]
        step = self.length - self.overlap
        found = list(range(0, frames - self.length, step))
        return [*found, frames - self.length]

    def weights(self, frames: int) -> Tensor:
        """Return the share (windows, frames) of each window in each frame: ramps over what they share."""
        starts, found = self.starts(frames), torch.zeros(len(self.starts(frames)), frames)
        length = min(self.length, frames)
        place = torch.arange(1, length + 1, dtype=torch.float32)
        for number, start in enumerate(starts):
            ramp = torch.minimum(place, place.flip(0)).clamp(max=self.overlap)
            found[number, start : start + length] = ramp
        return found / found.sum(0)

    def over(self, model: Model) -> Model:
        """Return a network that takes clips of any length, by its outputs for the windows."""

        def windowed(x: Tensor, time: Tensor, condition: Condition) -> Tensor:
            frames = x.shape[2]
            if frames <= self.length:
                return model(x, time, condition)
            weights = self.weights(frames).to(x.device)
            total: Tensor | None = None
            for start, weight in zip(self.starts(frames), weights, strict=True):
                here = slice(start, start + self.length)
                out = model(x[:, :, here], self._time(time, here), _condition(condition, here))
                if total is None:
                    total = out.new_zeros((*out.shape[:2], frames, *out.shape[3:]))
                total[:, :, here] += out * rearrange(weight[here], "t -> 1 1 t 1 1").to(out.dtype)
            assert total is not None
            return total

        return windowed

    def _time(self, time: Tensor, here: slice) -> Tensor:
        if time.ndim == 1:
            return time
        return time[:, here.start // self.unit : here.stop // self.unit]


def _condition(condition: Condition, here: slice) -> Condition:
    """Return the condition of a window: given frames are those within it."""
    mask, latents = condition.frame_mask, condition.frame_latents
    if mask is None:
        return condition
    latents = None if latents is None else latents[:, :, here]
    return replace(condition, frame_mask=mask[:, here], frame_latents=latents)
