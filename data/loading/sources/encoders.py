"""Protocols of the autoencoder and the text encoder for online encoding, which lie above this folder."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor, device

from data.latent.texts import CaptionEncoder
from data.order.buckets import Bucket


class PixelEncoder(Protocol):
    """Turns pixels into moments.

    moments: how many it gives, mean and log-variance or the mean alone.  identity: what a cache records.
    """

    moments: int
    identity: dict[str, Any]

    def to(self, device: device) -> None:
        """Compute on this device from now on."""
        ...

    def encode_there(self, pixels: Tensor) -> Tensor:
        """Turn (B, 3, T, H, W) in [-1, 1] into (B, M, C, T', H', W'), both on the encoder's device."""
        ...

    def latent_shape(self, bucket: Bucket) -> tuple[int, int, int, int]:
        """Return (C, T', H', W') of a bucket's latents."""
        ...


class PatchFeatures(Protocol):
    """Turns pixels into a picture encoder's features. identity: what a cache records of it."""

    identity: dict[str, Any]

    def to(self, device: device) -> None:
        """Compute on this device from now on."""
        ...

    def feature_shape(self, bucket: Bucket, latent_frames: int) -> tuple[int, int, int, int]:
        """Return (F, h, w, E) of the features of a bucket's samples."""
        ...

    def features_there(self, pixels: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Turn (B, 3, T, H, W) in [-1, 1] into features (B, F, h, w, E), both on the encoder's device."""
        ...


class IdentifiedCaptionEncoder(CaptionEncoder, Protocol):
    """Embeds captions. identity: what a cache records of it."""

    identity: dict[str, Any]

    def to(self, device: device) -> None:
        """Compute on this device from now on."""
        ...
