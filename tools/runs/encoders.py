"""Autoencoder, text encoder and picture encoder on a device, for a cache, online encoding, and prompts."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.errors import UserError
from data.order.buckets import Bucket
from models.precision import AskedPrecision, number_type

if TYPE_CHECKING:
    from torch import Tensor, device, dtype

    from models.text.encoders import TextEncoder


class Clock:
    """The seconds that encoders were busy."""

    def __init__(self) -> None:
        self.busy_s = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        began = time.monotonic()
        yield
        self.busy_s += time.monotonic() - began


class AutoencoderEncoder:
    """This project's autoencoder, or a public one, on a device: pixels to raw moments on the CPU.

    moments: how many it gives, mean and log-variance or the mean alone.  identity: what a cache records.
    """

    def __init__(
        self,
        folder: Path,
        device: device,
        precision: AskedPrecision,
        clock: Clock | None = None,
    ) -> None:
        from models.autoencoder.opening import identify, open_autoencoder

        autoencoder = open_autoencoder(folder)
        self.identity: dict[str, Any] = identify(autoencoder)
        self.moments, self.channels = autoencoder.moments, autoencoder.latent_channels
        self.autoencoder, self.device = autoencoder.to(device, _dtype(precision)), device
        self._clock = clock or Clock()

    @property
    def busy_s(self) -> float:
        return self._clock.busy_s

    def to(self, device: device) -> None:
        """Move the autoencoder to this device."""
        self.autoencoder, self.device = self.autoencoder.to(device), device

    def encode_there(self, pixels: Tensor) -> Tensor:
        """Encode (B, 3, T, H, W) in [-1, 1] to (B, M, C, T', H', W'), both on the encoder's device."""
        return self.autoencoder.encode(pixels)

    def encode(self, pixels: Tensor) -> Tensor:
        """Encode (B, 3, T, H, W) uint8, or in [-1, 1], to (B, M, C, T', H', W') on the CPU.

        Bytes are sent to the device as they are, and become numbers there.
        """
        from core.batch import in_numbers

        with self._clock.running():
            return self.encode_there(in_numbers(pixels.to(self.device, non_blocking=True))).cpu()

    def latent_shape(self, bucket: Bucket) -> tuple[int, int, int, int]:
        """Return (C, T', H', W') of a bucket's latents.

        UserError for a bucket that the autoencoder cannot take.
        """
        try:
            shape = self.autoencoder.latent_shape((bucket.frames, bucket.height, bucket.width))
        except UserError as error:
            raise UserError(f"buckets: {bucket} does not suit the autoencoder: {error}") from None
        return (self.channels, *shape)


class CaptionEmbedder:
    """A text encoder on a device: captions to embeddings on the CPU. identity: what a cache records of it."""

    def __init__(
        self, folder: Path, tokens: int, device: device, precision: AskedPrecision, clock: Clock
    ) -> None:
        from models.text import encoders

        encoder = encoders.load(folder, tokens)
        self.identity = encoder.describe() | {"precision": "bf16" if precision == "bf16" else "fp32"}
        self.width, self.tokens = encoder.width, encoder.tokens
        self.encoder: TextEncoder = encoder.to(device, _dtype(precision))
        self._clock = clock

    def to(self, device: device) -> None:
        """Move the text encoder to this device."""
        self.encoder = self.encoder.to(device)

    def encode_captions(self, captions: list[str]) -> list[Tensor]:
        """Embed captions: for each, (its tokens, D) float32."""
        with self._clock.running():
            return self.encoder(captions)

    def count_tokens(self, captions: list[str]) -> list[int]:
        """Count the tokens of each caption if none were cut off."""
        return self.encoder.count_tokens(captions)


class PictureEncoder:
    """A picture encoder on a device: pixels to features of patches.

    patch: rows and columns of a sample's pixels for which there is one patch.  identity: what a cache
    records, with all on which features depend.
    """

    def __init__(
        self,
        folder: Path,
        patch: int,
        device: device,
        precision: AskedPrecision,
        clock: Clock | None = None,
        field: str = "picture_encoder",
    ) -> None:
        from models.extractors.patches import load_patch_encoder

        encoder = load_patch_encoder(folder, field)
        self.width, self._patch, self.device = encoder.width, patch, device
        self.identity: dict[str, Any] = {
            "encoder": encoder.identity,
            "class": encoder.kind,
            "width": encoder.width,
            "patch": patch,
            "resize": f"bicubic to patches of {encoder.patch}",
            "frames": "the middle one of each latent frame's",
            **({"precision": precision} if precision == "bf16" else {}),
        }
        self.encoder = encoder.to(device, _dtype(precision))
        self._clock = clock or Clock()

    def to(self, device: device) -> None:
        """Move the encoder to this device."""
        self.encoder, self.device = self.encoder.to(device), device

    def feature_shape(self, bucket: Bucket, latent_frames: int) -> tuple[int, int, int, int]:
        """Return (F, h, w, E) of the features of a bucket's samples."""
        rows, columns = (max(1, round(side / self._patch)) for side in (bucket.height, bucket.width))
        return latent_frames, rows, columns, self.width

    def features_there(self, pixels: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Return features (B, F, h, w, E) of pixels (B, 3, T, H, W) in [-1, 1], on the encoder's device.

        Of T frames those are taken that lie in the middle of F equal parts.
        """
        import torch

        frames, rows, columns, _ = shape
        count, length = len(pixels), pixels.shape[2]
        taken = [(2 * number + 1) * length // (2 * frames) for number in range(frames)]
        pictures = ((pixels[:, :, taken] + 1) * 127.5).round().clamp(0, 255)
        found = self.encoder(pictures.transpose(1, 2).flatten(0, 1).to(torch.float32), (rows, columns))
        features: Tensor = found.unflatten(0, (count, frames))
        return features

    def encode_features(self, pixels: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Do the same, also of uint8 pixels, with the result on the CPU."""
        from core.batch import in_numbers

        with self._clock.running():
            there = in_numbers(pixels.to(self.device, non_blocking=True))
            return self.features_there(there, shape).cpu()


def _dtype(precision: AskedPrecision) -> dtype:
    """Return the number type of an encoder; `auto` is never bf16."""
    return number_type("fp32" if precision == "auto" else precision)
