"""The interface of any autoencoder for encoding, training and sampling."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any, Protocol, Self

from torch import Tensor, nn

from core import files
from models.autoencoder.tiling_config import TilingConfig
from models.weights import add_bytes

Shape = tuple[int, int, int]
FIRST = "kl"  # the first kind, once the only one: its name is not part of fingerprints


class AnyAutoencoder(Protocol):
    """A frozen or trained autoencoder: pixels (B, 3, T, H, W) in [-1, 1] to latents and back.

    moments: 2 where it gives a posterior, mean and log-variance of latents; 1 where it gives codes alone.
    spatial_compression: rows and columns of pixels per latent row and column.
    identity: hash of weights and configuration.  settings: the configuration, as a cache records it.
    normalisation: {"mean": [...], "std": [...]} by which its authors bring latents to unit scale; None where
    the statistics of a cache are taken.
    """

    @property
    def moments(self) -> int: ...
    @property
    def latent_channels(self) -> int: ...
    @property
    def spatial_compression(self) -> int: ...
    @property
    def identity(self) -> str: ...
    @property
    def settings(self) -> dict[str, Any]: ...
    @property
    def normalisation(self) -> dict[str, Any] | None: ...

    def encode(self, pixels: Tensor) -> Tensor:
        """Encode (B, 3, T, H, W) to (B, M, C, T', H', W') float32; UserError for a shape it would cut."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Decode (B, C, T', H', W') to (B, 3, T, H, W) float32, not clipped."""
        ...

    def latent_shape(self, shape: Shape) -> Shape:
        """Return latent (T', H', W') of pixels (T, H, W); UserError for a shape that does not fit."""
        ...

    def set_tiling(self, config: TilingConfig) -> None:
        """Encode and decode in parts from now on; UserError for parts that it cannot take."""
        ...

    def to(self, *arguments: Any, **options: Any) -> Self: ...
    def parameters(self) -> Iterator[nn.Parameter]: ...


class AutoencoderConfig(Protocol):
    """The configuration of an autoencoder that can be trained here: a frozen dataclass, and what it fixes.

    kind: its name in `models.autoencoder.kinds`, a field of the dataclass, and its first.
    moments: as in `AnyAutoencoder`.
    """

    @property
    def kind(self) -> str: ...
    @property
    def moments(self) -> int: ...
    @property
    def latent_channels(self) -> int: ...
    @property
    def spatial_compression(self) -> int: ...

    def build(self) -> TrainedHere:
        """Make the network, with weights from torch's global generator."""
        ...

    def latent_shape(self, shape: Shape) -> Shape:
        """Return latent (T', H', W') of pixels (T, H, W); UserError for a shape that does not fit."""
        ...


class TrainedHere(nn.Module):
    """An autoencoder that is built from a configuration: `AnyAutoencoder`, of which a kind adds the network.

    Called with pixels and, for a posterior, the noise (B, C, T', H', W') of the draw, it returns the
    reconstruction (B, 3, T, H, W) and what `encode` gives.
    """

    normalisation = None

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self._config = config

    def encode(self, pixels: Tensor) -> Tensor:
        raise NotImplementedError

    def decode(self, latents: Tensor) -> Tensor:
        raise NotImplementedError

    def set_tiling(self, config: TilingConfig) -> None:
        raise NotImplementedError

    def latent_shape(self, shape: Shape) -> Shape:
        return self._config.latent_shape(shape)

    @property
    def moments(self) -> int:
        return self._config.moments

    @property
    def latent_channels(self) -> int:
        return self._config.latent_channels

    @property
    def spatial_compression(self) -> int:
        return self._config.spatial_compression

    @property
    def kind(self) -> str:
        return self._config.kind

    @property
    def settings(self) -> dict[str, Any]:
        return settings_of(self._config)

    @property
    def identity(self) -> str:
        return fingerprint_of(self._config, self.weights())

    def weights(self) -> dict[str, Tensor]:
        """Return the weights in float32 on the CPU, as they are saved and hashed."""
        state = self.state_dict()
        return {name: tensor.detach().float().cpu().contiguous() for name, tensor in state.items()}


def settings_of(config: AutoencoderConfig) -> dict[str, Any]:
    """Return the configuration as recorded and hashed; that of the first kind without its name, as always."""
    settings: dict[str, Any] = asdict(config)  # type: ignore[call-overload]
    return {name: value for name, value in settings.items() if (name, value) != ("kind", FIRST)}


def fingerprint_of(config: AutoencoderConfig, weights: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of configuration and float32 weights."""
    digest = hashlib.sha256(files.fingerprint(settings_of(config)).encode())
    for name, tensor in sorted(weights.items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        add_bytes(digest, tensor)
    return digest.hexdigest()
