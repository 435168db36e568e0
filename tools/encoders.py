"""Encoders for the latent cache: what turns pixels into latents, and how it is identified."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.errors import UserError
from data.buckets import Bucket

if TYPE_CHECKING:
    from torch import Tensor, device


class AutoencoderEncoder:
    """This project's autoencoder on a device: pixels to moments on the CPU. busy_s: seconds spent so far."""

    def __init__(self, folder: Path, device: device, precision: str) -> None:
        import torch

        from models.autoencoder import fingerprint, load

        autoencoder = load(folder)
        self.config = autoencoder.config
        self.identity: dict[str, Any] = {
            "encoder": fingerprint(autoencoder),
            "encoder_config": asdict(self.config),
        }
        dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
        self.autoencoder, self.device = autoencoder.to(device, dtype), device
        self.busy_s = 0.0

    def encode(self, pixels: Tensor) -> Tensor:
        """(B, 3, T, H, W) in [-1, 1] -> (B, 2, C, T', H', W') on the CPU."""
        began = time.monotonic()
        moments = self.autoencoder.encode(pixels.to(self.device, non_blocking=True)).cpu()
        self.busy_s += time.monotonic() - began
        return moments

    def latent_shape(self, bucket: Bucket) -> tuple[int, int, int, int]:
        """(C, T', H', W') of a bucket's latents; UserError for a bucket that the autoencoder cannot take."""
        try:
            shape = self.config.latent_shape((bucket.frames, bucket.height, bucket.width))
        except UserError as error:
            raise UserError(f"buckets: {bucket} does not suit the autoencoder: {error}") from None
        return (self.config.latent_channels, *shape)
