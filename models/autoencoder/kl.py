"""A variational autoencoder for images and clips, exactly causal in time.

An image is a clip of one frame. Latent frame 0 holds frame 0, each later one the next `temporal_compression`
frames; no latent depends on a later frame, and no frame on a later latent (causal as in MAGVIT-v2,
arXiv:2310.05737).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.autoencoder import tiling
from models.autoencoder.kl_config import AutoencoderConfig
from models.autoencoder.layers import CausalConv3d, PixelNorm, ResidualBlock, Upsample, patches, unpatches
from models.autoencoder.tiling_config import TilingConfig

PIXEL_CHANNELS = 3


class Autoencoder(nn.Module):
    """Pixels (B, 3, T, H, W) in [-1, 1] to the mean and log-variance of latents, and latents back to pixels.

    Weights are drawn from torch's global generator. Computes in the dtype of its weights, answers in float32.
    """

    moments = 2

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.config, self.tiling = config, TilingConfig()
        self.encoder, self.decoder = Encoder(config), Decoder(config)
        initialise(self)

    def encode(self, pixels: Tensor) -> Tensor:
        """pixels: (B, 3, T, H, W).  Returns (B, 2, C, T', H', W') float32: mean and log-variance."""
        _, channels, *shape = pixels.shape
        if channels != PIXEL_CHANNELS:
            raise ValueError(f"pixels need {PIXEL_CHANNELS} channels, not {channels}")
        self.config.latent_shape((shape[0], shape[1], shape[2]))
        pixels = pixels.to(self.dtype)
        if self.tiling:
            moments = tiling.encode(self.encoder, self.config, self.tiling, pixels)
        else:
            moments = self.encoder(pixels)
        mean, log_variance = moments.float().chunk(2, dim=1)
        return torch.stack([mean, log_variance.clamp(-30.0, 20.0)], dim=1)

    def decode(self, latents: Tensor) -> Tensor:
        """latents: (B, C, T', H', W').  Returns (B, 3, T, H, W) float32, not clipped to [-1, 1]."""
        latents = latents.to(self.dtype)
        if self.tiling:
            return tiling.decode(self.decoder, self.config, self.tiling, latents).float()
        return self.decoder(latents).float()

    def forward(self, pixels: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Reconstruct pixels: returns the reconstruction (B, 3, T, H, W) and the moments.

        noise: (B, C, T', H', W') draws the latents from the posterior (Eq. 10, arXiv:1312.6114); without it
        the mean is decoded.
        """
        moments = self.encode(pixels)
        mean, log_variance = moments.unbind(1)
        latents = mean if noise is None else mean + (0.5 * log_variance).exp() * noise
        return self.decode(latents), moments

    def set_tiling(self, config: TilingConfig) -> None:
        """Encode and decode in parts from now on; UserError for parts that do not end where latents do."""
        tiling.check(self.config, config)
        self.tiling = config

    def latent_shape(self, shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """As `AutoencoderConfig.latent_shape`."""
        return self.config.latent_shape(shape)

    @property
    def spatial_compression(self) -> int:
        return self.config.spatial_compression

    @property
    def latent_channels(self) -> int:
        return self.config.latent_channels

    def frames_to_latent(self, frames: int) -> int:
        """Latent frames of a clip; UserError unless frames = 1 + k * temporal_compression."""
        space = self.config.spatial_compression
        return self.config.latent_shape((frames, space, space))[0]

    @property
    def dtype(self) -> torch.dtype:
        return self.decoder.stem.weight.dtype


class Encoder(nn.Module):
    """From the finest level to the coarsest."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.patch = config.patch
        channels = config.channels
        self.stem = CausalConv3d(PIXEL_CHANNELS * config.patch**2, channels[0])
        layers: list[nn.Module] = [ResidualBlock(channels[0]) for _ in range(config.blocks)]
        for level, (time, space) in enumerate(config.strides(), start=1):
            layers.append(CausalConv3d(channels[level - 1], channels[level], time_stride=time, stride=space))
            layers += [ResidualBlock(channels[level]) for _ in range(config.blocks)]
        self.layers = nn.Sequential(*layers)
        self.norm = PixelNorm(channels[-1])
        self.head = CausalConv3d(channels[-1], 2 * config.latent_channels)

    def forward(self, pixels: Tensor) -> Tensor:
        x = patches(pixels, self.patch).contiguous(memory_format=torch.channels_last_3d)  # 1.3x on CPU
        return self.head(F.silu(self.norm(self.layers(self.stem(x)))))


class Decoder(nn.Module):
    """From the coarsest level to the finest."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.patch = config.patch
        channels = config.channels
        self.stem = CausalConv3d(config.latent_channels, channels[-1])
        layers: list[nn.Module] = [ResidualBlock(channels[-1]) for _ in range(config.blocks)]
        for level, (time, space) in reversed(list(enumerate(config.strides()))):
            layers.append(Upsample(channels[level + 1], channels[level], time=time, space=space))
            layers += [ResidualBlock(channels[level]) for _ in range(config.blocks)]
        self.layers = nn.Sequential(*layers)
        self.norm = PixelNorm(channels[0])
        self.head = CausalConv3d(channels[0], PIXEL_CHANNELS * config.patch**2)

    def forward(self, latents: Tensor) -> Tensor:
        x = self.stem(latents.contiguous(memory_format=torch.channels_last_3d))
        return unpatches(self.head(F.silu(self.norm(self.layers(x)))), self.patch)


def initialise(model: Autoencoder) -> None:
    """He initialisation on the slice that sees the frame itself, a third of that scale on earlier frames.

    The network so starts as a good image autoencoder, whose later frames see a little of the earlier ones.
    """
    for module in model.modules():
        if isinstance(module, CausalConv3d):
            fan_in = module.weight[:, :, -1].numel() / module.weight.shape[0]
            nn.init.normal_(module.weight, std=(1.0 / fan_in) ** 0.5)
            with torch.no_grad():
                module.weight[:, :, :-1] /= 3
    for module in model.modules():
        if isinstance(module, ResidualBlock):
            nn.init.zeros_(module.conv_2.weight)
