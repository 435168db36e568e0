"""The contents of one micro-batch, as loaders hand it to objectives and networks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Condition:
    """The conditioning of a denoiser; every part is optional.

    label: (B,) int64, a class index, or -1 for none (the null class).
    text: (B, L, D) token embeddings, with text_length: (B,) int64 valid tokens (0 is no text).
    frame_mask: (B, T) float, 1 where a latent frame is given, with frame_latents: (B, C, T, H, W), else zero.
    """

    label: Tensor | None = None
    text: Tensor | None = None
    text_length: Tensor | None = None
    frame_mask: Tensor | None = None
    frame_latents: Tensor | None = None

    def to(self, device: torch.device, dtype: torch.dtype | None = None) -> Condition:
        """Move every part; floating parts also change to `dtype` where one is given."""
        return Condition(**{f.name: _to(getattr(self, f.name), device, dtype) for f in fields(self)})


@dataclass(frozen=True)
class Tally:
    """The quantities that ranks sum over a micro-batch: sample weights and `agreement.order_hash`."""

    weight: float
    hash: int


@dataclass(frozen=True)
class Batch:
    """Samples of one shape: one rank's share of a micro-step.

    x: what the source holds: latent moments (B, M, C, T, H, W), or pixels (B, C, T, H, W), uint8 as they were
    decoded until `to`, which makes numbers in [-1, 1] of them on the device.
    id: (B,) int64 row in the source index.  position: (B,) int64 place in the optimizer step, over all ranks.
    weight: (B,) float32, 1, or 0 for a sample that could not be read (it keeps its slot; invariant 8).
    bucket: the source's name of this shape.  source: the name of the source, "" where there is one alone.
    order_hash: `core.distributed.agreement.order_hash` of the whole step, as this rank's source has it; None
    where it does not know, or where another rank checks the step.  tally, prepared: made ahead of the step
    where the source does so; prepared is the objective's.  arrived: has the device wait for what was sent
    there ahead; `to` calls it.  features: (B, F, h, w, E) float16 of a picture encoder, where the source has
    them; or, where it makes them, the pictures (B, 3, F, H, W) uint8.  stills: (B, 1, C, 1, H, W) the last
    picture of each clip as a latent frame that stands still, where the source brings it.
    """

    x: Tensor
    id: Tensor
    position: Tensor
    weight: Tensor
    condition: Condition = Condition()
    bucket: str = ""
    source: str = ""
    order_hash: int | None = None
    tally: Tally | None = None
    prepared: Any = None
    arrived: Callable[[], None] | None = None
    features: Tensor | None = None
    stills: Tensor | None = None

    def __len__(self) -> int:
        return self.x.shape[0]

    def to(self, device: torch.device) -> Batch:
        """Move every tensor (asynchronously from pinned memory); return self where they are there already."""
        if self.arrived is not None:
            self.arrived()
        there = self if self.x.device == device else self.sent(device)
        x = in_numbers(there.x)
        return there if x is there.x else replace(there, x=x)

    def sent(self, device: torch.device) -> Batch:
        """Move every tensor, pixels as they are (asynchronously from pinned memory)."""
        names = ("x", "id", "position", "weight")
        moved = {name: getattr(self, name).to(device, non_blocking=True) for name in names}
        condition, features = self.condition.to(device), _to(self.features, device, None)
        stills = _to(self.stills, device, None)
        return replace(self, **moved, condition=condition, features=features, stills=stills)


def in_numbers(x: Tensor) -> Tensor:
    """Convert uint8 pixels to float32 in [-1, 1], `pixels / 127.5 - 1`; anything else stays as it is.

    The same bits on every device: CUDA multiplies by the reciprocal of a number, and divides by a tensor.
    """
    if x.dtype != torch.uint8:
        return x
    return x.to(torch.float32).div_(torch.full((), 127.5, device=x.device)).sub_(1)


def _to(tensor: Tensor | None, device: torch.device, dtype: torch.dtype | None) -> Tensor | None:
    if tensor is None:
        return None
    return tensor.to(
        device, dtype if dtype and tensor.is_floating_point() else tensor.dtype, non_blocking=True
    )
