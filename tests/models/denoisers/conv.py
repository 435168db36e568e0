"""A second kind of network, as small as possible: convolutions over rows and columns, given time and class.

As a program it is `longtake` with this kind: it registers it and runs the command line, as every rank does.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from core.batch import Condition
from core.config.settings import setting
from core.distributed.sequence import SequenceGroup
from core.errors import UserError
from launch import cli
from models.attention.choice import AttentionHeads
from models.denoisers.kinds import KINDS
from models.denoisers.network import Denoiser
from models.layers.conditions import labels
from models.layers.embeddings import Grid, LabelEmbedding, TimeEmbedding


@dataclass(frozen=True, kw_only=True)
class ConvConfig:
    """The shape of the network."""

    presets: ClassVar[dict[str, ConvConfig]]

    kind: Literal["conv"] = setting("conv", "the kind of network")
    preset: str = setting("", "a shape by name")
    input_channels: int = setting(4, "channels of the latents", low=1)
    width: int = setting(16, "channels of every layer", low=1)
    layers: int = setting(2, "residual layers", low=1)
    num_classes: int = setting(10, "classes", low=0)

    learned_sigma: ClassVar[bool] = False
    text_width: ClassVar[int] = 0
    frame_condition: ClassVar[bool] = False
    frames_per_level: ClassVar[int] = 0
    two_times: ClassVar[bool] = False
    hidden_widths: ClassVar[tuple[int, ...]] = ()

    def build(self, sequence: SequenceGroup | None = None) -> Conv:
        assert sequence is None, "it has no attention heads, so that nobody asks for this"
        return Conv(self)

    def tokens(self, shape: Grid) -> int:
        if shape[1] % 2 or shape[2] % 2:
            raise UserError("kind", self.kind, f"another for an odd height or width in {shape}")
        return math.prod(shape)

    def macs_by_part(self, shape: Grid, text_tokens: int = 0) -> dict[str, int]:
        per_position = 9 * (2 * self.input_channels * self.width + self.layers * self.width**2)
        time = TimeEmbedding.FREQUENCIES * self.width + self.width**2
        return {"convolutions": math.prod(shape) * per_position, "time": time}

    def attention_heads(self, sequence_ranks: int = 1) -> AttentionHeads | None:
        return None


ConvConfig.presets = {"wide": ConvConfig(width=32)}


class Layer(nn.Module):
    """A convolution over rows and columns of every frame, given one vector per sample, around a skip."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.convolution = nn.Conv3d(width, width, (1, 3, 3), padding=(0, 1, 1))

    def forward(self, x: Tensor, vector: Tensor) -> Tensor:
        return x + self.convolution(F.silu(x + vector[:, :, None, None, None]))


class Conv(Denoiser):
    """The network."""

    def __init__(self, config: ConvConfig) -> None:
        super().__init__()
        size, padding = (1, 3, 3), (0, 1, 1)
        self.time = TimeEmbedding(config.width)
        self.label = LabelEmbedding(config.num_classes, config.width)
        self.stem = nn.Conv3d(config.input_channels, config.width, size, padding=padding)
        self.blocks = nn.ModuleList(Layer(config.width) for _ in range(config.layers))
        self.head = nn.Conv3d(config.width, config.input_channels, size, padding=padding)

    def forward(self, x: Tensor, time: Tensor, condition: Condition) -> Tensor:
        vector = self.time(time) + self.label(labels(x, condition))
        x = self.stem(x.to(self.stem.weight.dtype))
        for layer in self.blocks:
            x = layer(x, vector)
        return self.head(x).float()


def register() -> None:
    """Register the kind, as a line in `models/denoisers/kinds.py` would."""
    KINDS["conv"] = ConvConfig


if __name__ == "__main__":
    register()
    sys.exit(cli.main())
