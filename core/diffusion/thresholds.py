"""Bounds of the estimated data, applied in every step, each sample by itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from einops import rearrange
from torch import Tensor

from core.config.settings import setting
from core.errors import UserError


@dataclass(frozen=True, kw_only=True)
class ThresholdConfig:
    kind: Literal["none", "static", "dynamic", "deviation"] = setting(
        "none",
        "bound on the estimated data: static clips values at limit; dynamic clips a sample's largest "
        "values and rescales it to limit; deviation rescales a sample to a standard deviation of at most "
        "limit",
    )
    limit: float = setting(
        4.0,
        "bound in units of the normalised latents, whose standard deviation is 1; kind=deviation: 1 to 1.5",
        low=1e-3,
    )
    share: float = setting(
        0.995, "dynamic: share of a sample's values that are not clipped (2205.11487)", low=0.5, high=1
    )

    def __post_init__(self) -> None:
        if self.share != 0.995 and self.kind != "dynamic":
            raise UserError("share", self.share, f"0.995 with kind={self.kind}; kind=dynamic takes it")


def bounded(config: ThresholdConfig, data: Tensor) -> Tensor:
    """Return estimated data (B, ...) within the bound, in their dtype.

    static: to [-limit, limit], as DDPM clips pixels (2006.11239).  dynamic: with s the `share` quantile of a
    sample's absolute numbers, at least limit: to [-s, s], then times limit / s (Imagen, 2205.11487, section
    2.3).  deviation: times limit / deviation of the sample, where that is below 1.
    """
    flat = rearrange(data, "b ... -> b (...)")
    match config.kind:
        case "none":
            return data
        case "static":
            return data.clamp(-config.limit, config.limit)
        case "dynamic":
            s = _quantile(flat.abs(), config.share).clamp(min=config.limit)
            flat = torch.minimum(torch.maximum(flat, -s), s) * (config.limit / s)
        case "deviation":
            flat = flat * (config.limit / flat.std(1, keepdim=True, correction=0)).clamp(max=1)
    return flat.reshape(data.shape)


def _quantile(values: Tensor, share: float) -> Tensor:
    """Return the (B, 1) quantile of each row; by sorting, since torch.quantile takes 2^24 numbers at most."""
    place = share * (values.shape[1] - 1)
    low = int(place)
    ordered = values.sort(1).values
    high = min(low + 1, values.shape[1] - 1)
    return torch.lerp(ordered[:, low], ordered[:, high], place - low)[:, None]
