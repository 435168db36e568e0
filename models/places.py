"""Learned tables of places, resized for grids of another size."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from models.weights import shapes_only

PLACES_RULE = "bicubic over rows and columns, linear over frames"


def fit_places(table: Tensor, shape: Sequence[int]) -> Tensor:
    """Resize (T, H, W, D) to `shape`: bicubic over rows and columns, then linear over frames."""
    frames, height, width = shape[:3]
    rows = rearrange(table.float(), "t h w d -> t d h w")
    if (height, width) != tuple(rows.shape[2:]):
        # Keys' kernel, which keeps what is linear; without `antialias` torch takes another one.
        rows = F.interpolate(rows, (height, width), mode="bicubic", align_corners=False, antialias=True)
    if frames == len(rows):
        return rearrange(rows, "t d h w -> t h w d")
    moments = rearrange(rows, "t d h w -> (h w) d t")
    moments = F.interpolate(moments, frames, mode="linear", align_corners=False)
    return rearrange(moments, "(h w) d t -> t h w d", h=height)


def has_learned_places(build: Callable[[], nn.Module]) -> bool:
    """Return whether the network that `build` makes has a learned table of places."""
    with shapes_only():
        return any(hasattr(parameter, "places") for parameter in build().parameters())
