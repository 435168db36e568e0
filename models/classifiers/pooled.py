"""A small convolutional classifier of noisy latents, told the time, pooled over frames, height and width."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from core.errors import UserError
from models.layers.embeddings import TimeEmbedding

GROUPS = 4  # of GroupNorm


@dataclass(frozen=True, kw_only=True)
class PooledConfig:
    """channels: of the latents.  width: channels inside, a multiple of 4.  depth: residual blocks."""

    kind: Literal["pooled"] = "pooled"
    channels: int = 4
    classes: int = 10
    width: int = 32
    depth: int = 3

    def __post_init__(self) -> None:
        for name in ("channels", "classes", "depth"):
            if getattr(self, name) < 1:
                raise UserError(name, getattr(self, name), "at least 1")
        if self.width < GROUPS or self.width % GROUPS:
            raise UserError("width", self.width, f"a multiple of {GROUPS}, at least {GROUPS}")

    def build(self) -> Pooled:
        """Return the network, its weights drawn."""
        return Pooled(self)


class Pooled(nn.Module):
    """Latents of any length, height and width; its smooth activations have a gradient everywhere."""

    def __init__(self, config: PooledConfig) -> None:
        super().__init__()
        width = config.width
        self.time = TimeEmbedding(width)
        self.first = nn.Conv3d(config.channels, width, 3, padding=1)
        self.blocks = nn.ModuleList(_Block(width) for _ in range(config.depth))
        self.last = nn.Linear(width, config.classes)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """Map noisy latents (B, C, T, H, W) and times (B,), as a denoiser has both, to log p (B, classes)."""
        told, hidden = silu(self.time(time)), self.first(x)
        for block in self.blocks:
            hidden = block(hidden, told)
        return torch.log_softmax(self.last(silu(hidden).mean((2, 3, 4))), dim=1)


class _Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(GROUPS, width)
        self.modulation = nn.Linear(width, 2 * width)
        self.up = nn.Conv3d(width, width, 3, padding=1)
        self.down = nn.Conv3d(width, width, 3, padding=1)

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        scale, shift = self.modulation(told)[:, :, None, None, None].chunk(2, dim=1)
        return x + self.down(silu(self.up(silu(self.norm(x) * (1 + scale) + shift))))
