"""A second kind of autoencoder, as small as possible: it gives codes, and no posterior."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from core.config.settings import setting
from core.errors import UserError
from models.autoencoder.interface import Shape, TrainedHere
from models.autoencoder.tiling_config import TilingConfig


@dataclass(frozen=True, kw_only=True)
class CodesConfig:
    """The shape of the autoencoder."""

    moments: ClassVar[int] = 1
    kind: Literal["codes"] = setting("codes", "the kind of autoencoder")
    latent_channels: int = setting(4, "channels of a latent", low=1)
    spatial_compression: int = setting(2, "rows and columns of pixels per latent row and column", low=1)

    def build(self) -> Codes:
        return Codes(self)

    def latent_shape(self, shape: Shape) -> Shape:
        for name, size in (("height", shape[1]), ("width", shape[2])):
            if size % self.spatial_compression:
                raise UserError(name, size, f"a multiple of {self.spatial_compression}")
        return shape[0], shape[1] // self.spatial_compression, shape[2] // self.spatial_compression


class Codes(TrainedHere):
    """One linear layer each way, on squares of every frame by itself."""

    def __init__(self, config: CodesConfig) -> None:
        super().__init__(config)
        size = (1, config.spatial_compression, config.spatial_compression)
        self.encoder = nn.Conv3d(3, config.latent_channels, size, stride=size)
        self.decoder = nn.ConvTranspose3d(config.latent_channels, 3, size, stride=size)

    def encode(self, pixels: Tensor) -> Tensor:
        self.latent_shape((pixels.shape[2], pixels.shape[3], pixels.shape[4]))
        return self.encoder(pixels.to(self.encoder.weight.dtype)).float()[:, None]

    def decode(self, latents: Tensor) -> Tensor:
        return self.decoder(latents.to(self.decoder.weight.dtype)).float()

    def forward(self, pixels: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Tensor]:
        assert noise is None, "codes are not drawn"
        moments = self.encode(pixels)
        return self.decode(torch.squeeze(moments, 1)), moments

    def set_tiling(self, config: TilingConfig) -> None:
        if config:
            raise UserError("tiling.pixels", config.pixels, "0: codes have no tiling")
