"""A plain diffusion transformer, which `bench step` compares the network of `models/denoisers/dit` with.

Written from the equations of arXiv:2212.09748, with torch's own modules and fused attention, for labelled
images alone. Parameters bear the names of `models.denoisers.dit.DiT`, so both take the same weights.
"""

from __future__ import annotations

import math
from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.denoisers.dit import DiTConfig
from models.layers.embeddings import sincos_positions


class PlainAttention(nn.Module):
    """Self-attention by torch's fused function."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        out = F.scaled_dot_product_attention(qkv[0], qkv[1], qkv[2])
        return self.out(out.transpose(1, 2).reshape(batch, tokens, width))


class PlainBlock(nn.Module):
    """adaLN-Zero around attention and MLP."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        width, hidden = config.width, int(config.width * config.mlp_ratio)
        self.norm = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.modulation = _linear_module(width, 6 * width)
        self.attention = PlainAttention(width, config.heads)
        layers = {
            "up": nn.Linear(width, hidden),
            "gelu": nn.GELU(approximate="tanh"),
            "down": nn.Linear(hidden, width),
        }
        self.mlp = nn.Sequential(OrderedDict(layers))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        parts = self.modulation(F.silu(condition)).unsqueeze(1).chunk(6, dim=2)
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = parts
        x = x + gate_1 * self.attention(self.norm(x) * (1 + scale_1) + shift_1)
        return x + gate_2 * self.mlp(self.norm(x) * (1 + scale_2) + shift_2)


class PlainDiT(nn.Module):
    """`models.denoisers.dit.DiT` for labelled images with sin-cos positions and no options."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        width = config.width
        self.config = config
        inputs = config.input_channels * math.prod(config.patch)
        self.patches = _linear_module(inputs, width)
        self.time = nn.Sequential(
            OrderedDict(up=nn.Linear(256, width), silu=nn.SiLU(), down=nn.Linear(width, width))
        )
        self.label = nn.Sequential(OrderedDict(table=nn.Embedding(config.num_classes + 1, width)))
        self.blocks = nn.ModuleList(PlainBlock(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.final_modulation = _linear_module(width, 2 * width)
        self.final = nn.Linear(width, math.prod(config.patch) * config.output_channels)

    def forward(self, x: Tensor, time: Tensor, label: Tensor) -> Tensor:
        """Return (B, C or 2C, T, H, W) of x: (B, C, T, H, W), time, label: (B,)."""
        (pt, ph, pw), config = self.config.patch, self.config
        batch, channels, frames, height, width = x.shape
        t, h, w = frames // pt, height // ph, width // pw
        patches = x.reshape(batch, channels, t, pt, h, ph, w, pw).permute(0, 2, 4, 6, 1, 3, 5, 7)
        tokens = self.patches(patches.reshape(batch, t * h * w, -1))
        tokens = tokens + sincos_positions((t, h, w), config.width, x.device)
        frequencies = torch.exp(-math.log(10000) * torch.arange(128, device=x.device) / 128)
        angles = time[:, None] * frequencies
        condition = self.time(torch.cat([angles.cos(), angles.sin()], dim=1)) + self.label(label)
        for block in self.blocks:
            tokens = block(tokens, condition)
        shift, scale = self.final_modulation(F.silu(condition)).unsqueeze(1).chunk(2, dim=2)
        out = self.final(self.norm(tokens) * (1 + scale) + shift)
        out = out.reshape(batch, t, h, w, pt, ph, pw, -1).permute(0, 7, 1, 4, 2, 5, 3, 6)
        return out.reshape(batch, -1, frames, height, width)


def _linear_module(inputs: int, outputs: int) -> nn.Sequential:
    """Return a linear layer under the name `linear`, as where the other network has a module around it."""
    return nn.Sequential(OrderedDict(linear=nn.Linear(inputs, outputs)))
