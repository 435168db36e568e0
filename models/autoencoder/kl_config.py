"""Configuration of the causal autoencoder."""

from __future__ import annotations

from dataclasses import dataclass

from core.config.settings import setting
from core.errors import UserError


@dataclass(frozen=True, kw_only=True)
class AutoencoderConfig:
    """The shape of the autoencoder."""

    latent_channels: int = setting(4, "channels of a latent", low=1)
    spatial_compression: int = setting(
        8, "rows and columns of pixels per latent row and column; a power of 2", low=1
    )
    temporal_compression: int = setting(4, "frames per latent frame after the first; a power of 2", low=1)
    patch: int = setting(2, "pixel rows and columns folded into channels before the first layer", low=1)
    width: int = setting(64, "channels of the first level", low=1)
    channel_multipliers: tuple[int, ...] = setting((1, 2, 4), "channels of each level, over the width")
    blocks: int = setting(2, "residual blocks per level and direction", low=1)

    def __post_init__(self) -> None:
        for name in ("spatial_compression", "temporal_compression", "patch"):
            if getattr(self, name) & (getattr(self, name) - 1):
                raise UserError(name, getattr(self, name), "a power of 2")
        if self.spatial_compression % self.patch:
            raise UserError(
                "patch", self.patch, f"a divisor of spatial_compression={self.spatial_compression}"
            )
        levels = 1 + max(self.spatial_halvings, self.temporal_halvings)
        if len(self.channel_multipliers) != levels or min(self.channel_multipliers) < 1:
            expected = (
                f"{levels} numbers of at least 1: one level more than there are halvings of space or time"
            )
            raise UserError("channel_multipliers", self.channel_multipliers, expected)

    @property
    def spatial_halvings(self) -> int:
        return (self.spatial_compression // self.patch).bit_length() - 1

    @property
    def temporal_halvings(self) -> int:
        return self.temporal_compression.bit_length() - 1

    @property
    def channels(self) -> tuple[int, ...]:
        return tuple(self.width * multiplier for multiplier in self.channel_multipliers)

    def strides(self) -> list[tuple[int, int]]:
        """(time, space) factor between one level and the next: space first, time as late as possible."""
        stages = len(self.channel_multipliers) - 1
        return [
            (2 if stage >= stages - self.temporal_halvings else 1, 2 if stage < self.spatial_halvings else 1)
            for stage in range(stages)
        ]

    def latent_shape(self, shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """Latent (T', H', W') of pixels (T, H, W); UserError for a shape that does not fit."""
        frames, height, width = shape
        space, time = self.spatial_compression, self.temporal_compression
        if (frames - 1) % time or frames < 1:
            raise UserError("frames", frames, f"1 + k * {time} (temporal_compression) with k = 0, 1, 2, ...")
        for name, size in (("height", height), ("width", width)):
            if size % space or size < 1:
                raise UserError(name, size, f"a multiple of {space} (spatial_compression)")
        return 1 + (frames - 1) // time, height // space, width // space
