"""Interpolate between two noises, from which samples between two others are made."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Interpolation = Literal["slerp", "linear"]


def between(first: Tensor, last: Tensor, share: Tensor, kind: Interpolation) -> Tensor:
    """Return (B, ...) noise at a share (B,) of the way from first to last.

    slerp: along the great circle through both (Shoemake 1985), which keeps the length that noise has; linear:
    along the line, whose middle is shorter by sqrt(2) for independent noise, so samples lose detail there.
    """
    wide = share.to(first.dtype).reshape(-1, *[1] * (first.ndim - 1))
    if kind == "linear":
        return (1 - wide) * first + wide * last
    a, b = first.flatten(1).double(), last.flatten(1).double()
    cosine = (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))
    angle = torch.acos(cosine.clamp(-1, 1)).reshape(wide.shape)
    sine, parts = torch.sin(angle), wide.double()
    near = sine < 1e-6  # the same noise twice, or opposite ones: no circle is the great one
    safe = torch.where(near, torch.ones_like(sine), sine)
    one = torch.where(near, 1 - parts, torch.sin((1 - parts) * angle) / safe)
    other = torch.where(near, parts, torch.sin(parts * angle) / safe)
    return (one * first.double() + other * last.double()).to(first.dtype)
