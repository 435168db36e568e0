"""The tiling of large inputs of an autoencoder."""

from __future__ import annotations

from dataclasses import dataclass

from core.config.settings import setting


@dataclass(frozen=True, kw_only=True)
class TilingConfig:
    """Parts in which pixels are encoded, or decoded into."""

    pixels: int = setting(0, "rows and columns of a tile; 0 does not tile pictures", unit="pixels", low=0)
    frames: int = setting(0, "frames of a tile, after the first; 0 does not tile clips", unit="frames", low=0)

    def __bool__(self) -> bool:
        return bool(self.pixels or self.frames)
