"""Embeddings of times, labels, pixels and positions."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache, wraps
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

Grid = tuple[int, int, int]  # tokens along time, height and width


class TimeEmbedding(nn.Module):
    """A 256-number sinusoid of the time, through a two-layer MLP (ADM, arXiv:2105.05233).

    scale, offset: the sinusoid is of offset + scale * time, for networks that were trained on another clock.
    shift: as of `sinusoid`.
    """

    FREQUENCIES = 256

    def __init__(self, width: int, scale: float = 1.0, offset: float = 0.0, shift: int = 0) -> None:
        super().__init__()
        self.scale, self.offset, self.shift = scale, offset, shift
        self.up = nn.Linear(self.FREQUENCIES, width)
        self.down = nn.Linear(width, width)

    def forward(self, time: Tensor) -> Tensor:
        """Embed time: (B,) as `path.time_input` gives it, up to about 1000.  Returns (B, D)."""
        if (self.scale, self.offset) != (1.0, 0.0):
            time = self.offset + self.scale * time.float()
        features = sinusoid(time, self.FREQUENCIES, self.shift)  # float32: bfloat16 cannot tell 999 from 1000
        return self.down(nn.functional.silu(self.up(features.to(self.up.weight.dtype))))


def sinusoid(position: Tensor, size: int, shift: int = 0) -> Tensor:
    """Return (..., size) float32: cosines, then sines, of position * 10000^(-i / (size / 2 - shift)).

    With shift 1, as diffusers' DiT has it, the last frequency is 1/10000.
    """
    half = size // 2
    exponent = torch.arange(half, dtype=torch.float32, device=position.device) / (half - shift)
    angle = position.float()[..., None] * torch.exp(-math.log(10000.0) * exponent)
    return torch.cat([angle.cos(), angle.sin()], dim=-1)


class LabelEmbedding(nn.Module):
    """A row per class and one more, the last, for no class (label -1)."""

    def __init__(self, num_classes: int, width: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.table = nn.Embedding(num_classes + 1, width)
        self.table.weight.classes = True  # type: ignore[attr-defined]

    def forward(self, label: Tensor) -> Tensor:
        """Embed label: (B,) int64 in -1 .. num_classes - 1.  Returns (B, D)."""
        return self.table(torch.where(label < 0, self.num_classes, label))


class PatchEmbedding(nn.Module):
    """Cut (B, C, T, H, W) into patches (pt, ph, pw) and map each to a token by one linear layer."""

    def __init__(self, channels: int, patch: Grid, width: int, *, bias: bool = True) -> None:
        super().__init__()
        self.patch = patch
        self.linear = nn.Linear(channels * math.prod(patch), width, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        pt, ph, pw = self.patch
        pattern = "b c (t pt) (h ph) (w pw) -> b (t h w) (c pt ph pw)"
        return self.linear(rearrange(x, pattern, pt=pt, ph=ph, pw=pw))


def unpatchify(tokens: Tensor, grid: Grid, patch: Grid) -> Tensor:
    """Undo patches: (B, N, pt * ph * pw * C) to (B, C, T, H, W), the channel fastest inside a token."""
    (t, h, w), (pt, ph, pw) = grid, patch
    pattern = "b (t h w) (pt ph pw c) -> b c (t pt) (h ph) (w pw)"
    return rearrange(tokens, pattern, t=t, h=h, w=w, pt=pt, ph=ph, pw=pw)


def remembered(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Keep what a function returned for its last 64 arguments.

    Not while operations are watched by a dispatch mode: memory is counted over tensors without data, and one
    of these that were kept would be taken for a real one later.
    """
    known = lru_cache(maxsize=64)(make)

    @wraps(make)
    def recall(*arguments: Any) -> Tensor:
        return make(*arguments) if is_in_torch_dispatch_mode() else known(*arguments)

    recall.cache_clear = known.cache_clear  # type: ignore[attr-defined]
    return recall


@remembered
def sincos_positions(grid: Grid, width: int, device: torch.device) -> Tensor:
    """Return (N, width) float32 fixed positions of a grid of tokens, row by row, frame by frame.

    Half of the channels encode the column, half the row, as in the published image DiT. The frame's sinusoid
    minus its value at frame 0 is added, so an image has the positions of the first frame of a video.
    """
    with torch.inference_mode(False), torch.device(device):
        frames, rows, columns = (torch.arange(n, dtype=torch.float32) for n in grid)
        place = [_sines_first(columns, width // 2)[None].expand(grid[1], -1, -1)]
        place.append(_sines_first(rows, width // 2)[:, None].expand(-1, grid[2], -1))
        image = rearrange(torch.cat(place, dim=-1), "h w d -> 1 (h w) d")
        moment = _sines_first(frames, width)
        return rearrange(image + (moment - moment[:1])[:, None], "t n d -> (t n) d")


def _sines_first(position: Tensor, size: int) -> Tensor:
    cosines, sines = sinusoid(position, size).chunk(2, dim=-1)
    return torch.cat([sines, cosines], dim=-1)


@remembered
def rotary_angles(grid: Grid, head_width: int, device: torch.device) -> Tensor:
    """Return (N, head_width / 2) float32 angles: parts of every head turn with the frame, row and column.

    Row and column take a third of the pairs each, rounded down, the frame the rest (RoPE, arXiv:2104.09864,
    in three dimensions).
    """
    pairs = head_width // 2
    sizes = (pairs - 2 * (pairs // 3), pairs // 3, pairs // 3)
    with torch.inference_mode(False), torch.device(device):
        places = torch.meshgrid(*(torch.arange(n, dtype=torch.float32) for n in grid), indexing="ij")
        parts = [
            place.flatten()[:, None] * 10000.0 ** (-torch.arange(size, dtype=torch.float32) / max(size, 1))
            for place, size in zip(places, sizes, strict=True)
        ]
        return torch.cat(parts, dim=-1)


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Turn each pair (x_i, x_(i + Dh/2)) of (B, N, K, Dh) by its angle, in float32."""
    cos, sin = angles.cos()[:, None], angles.sin()[:, None]
    first, second = x.float().chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1).to(x.dtype)
