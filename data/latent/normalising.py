"""Turn the encoder's moments into a network's input: statistics, normalising, posterior samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor

from core.draws import Draws
from core.reading.json_scalars import Range


def sample_posterior(moments: Tensor, draws: Draws) -> Tensor:
    """Draw latents (B, C, T, H, W) float32 from the encoder's posterior (Eq. 10, arXiv:1312.6114).

    moments: (B, M, C, T, H, W): mean and log-variance; of M = 1, a stored mean, the mean is what comes back.
    """
    mean = moments[:, 0].float()
    if moments.shape[1] == 1:
        return mean
    noise = draws.normal("posterior", tuple(mean.shape[1:])).to(mean.device)
    return mean + (0.5 * moments[:, 1].float()).exp() * noise


@dataclass(frozen=True)
class LatentSums:
    """Sums from which mean and standard deviation per channel follow; sums of parts add up, in float64.

    count: positions.  total, squares: sums of the posterior's mean and of its square, (C,).
    variance: sum of the posterior's variance, (C,); 0 where only means are stored.
    """

    count: Annotated[int, Range(1)]
    total: tuple[float, ...]
    squares: tuple[float, ...]
    variance: tuple[float, ...]

    def __post_init__(self) -> None:
        if not len(self.total) == len(self.squares) == len(self.variance) > 0:
            raise ValueError("total, squares and variance have to be of the same channels")

    @classmethod
    def of(cls, latents: np.ndarray) -> LatentSums:
        """Sum latents as they are stored, (n, M, C, T, H, W)."""
        mean = latents[:, 0].astype(np.float64)
        axes = (0, 2, 3, 4)
        variance = np.exp(latents[:, 1:].astype(np.float64)).sum((0, 1, 3, 4, 5))
        sums = (mean.sum(axes), (mean**2).sum(axes), variance)
        return cls(mean.size // mean.shape[1], *(tuple(values.tolist()) for values in sums))

    def __add__(self, other: LatentSums) -> LatentSums:
        pairs = ("total", "squares", "variance")
        sums = [tuple(np.add(getattr(self, name), getattr(other, name)).tolist()) for name in pairs]
        return LatentSums(self.count + other.count, *sums)

    def statistics(self) -> dict[str, Any]:
        """Return {"mean": [C numbers], "std": [C numbers], "count": positions} of drawn latents."""
        mean = np.array(self.total) / self.count
        spread = (np.array(self.squares) + np.array(self.variance)) / self.count - mean**2
        return {"mean": mean.tolist(), "std": np.sqrt(np.maximum(spread, 0)).tolist(), "count": self.count}


Moment = tuple[float | tuple[float, ...], ...]


@dataclass(frozen=True)
class Normaliser:
    """Brings latents to mean 0 and standard deviation 1 per channel, and back.

    mean, std: (C,), or (C, F) for each of the first F latent frames.
    """

    mean: Moment
    std: Moment

    def apply(self, latents: Tensor) -> Tensor:
        """Normalise latents (B, C, T, H, W)."""
        mean, std = self._like(latents)
        return (latents - mean) / std

    def undo(self, latents: Tensor) -> Tensor:
        """Undo the normalisation of latents (B, C, T, H, W)."""
        mean, std = self._like(latents)
        return latents * std + mean

    def as_dict(self) -> dict[str, Any]:
        """Return the statistics as JSON values."""
        return {name: np.array(values).tolist() for name, values in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Normaliser:
        """Create from what `as_dict` or `LatentSums.statistics` returns."""
        mean, std = (
            tuple(tuple(v) if isinstance(v, list) else float(v) for v in values[name])
            for name in ("mean", "std")
        )
        return cls(mean, std)

    @property
    def frames(self) -> int:
        """Number of latent frames that the statistics are for; 0 for any number."""
        return len(self.mean[0]) if isinstance(self.mean[0], tuple) else 0

    def statistics_on(self, device: torch.device, frames: int) -> tuple[Tensor, Tensor]:
        """Return mean and std for latents of so many frames, each (C, 1) or (C, frames) float32."""
        mean, std = self._on(device, torch.float32, len(self.mean), frames)
        return mean.reshape(len(self.mean), -1), std.reshape(len(self.mean), -1)

    def _like(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        return self._on(latents.device, latents.dtype, latents.shape[1], latents.shape[2])

    def _on(
        self, device: torch.device, dtype: torch.dtype, channels: int, frames: int
    ) -> tuple[Tensor, Tensor]:
        values = torch.tensor([self.mean, self.std], dtype=dtype)
        values = values.reshape(2, 1, channels, -1, 1, 1)
        if values.shape[3] > 1:
            values = values[:, :, :, :frames]
        values[1].clamp_(min=1e-6)  # a channel that never changes
        mean, std = values.to(device, non_blocking=True)  # every micro-batch: do not wait for a GPU
        return mean, std
