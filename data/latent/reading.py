"""The latent cache as training sees it: gathering rows, statistics, normalising, posterior samples."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from core.config.loading import difference
from core.draws import Draws
from core.errors import WorkError
from data.dataset.schema import FLIP, FLIP_DTYPE, DatasetManifest, read_sidecar
from data.latent.members import is_finite
from data.latent.memory import BatchMemory
from data.latent.packs import Shape
from data.latent.parts import Parts


class LatentReader:
    """Gathers samples of one shape from the parts of a cache, straight into one tensor.

    index: (samples,) INDEX_DTYPE, may be a memory map.  Not for several threads at once.
    has_flips: whether the cache also holds every sample mirrored left to right.
    open_part: as `data.latent.parts.Parts` takes it.
    """

    def __init__(
        self,
        folder: Path,
        manifest: DatasetManifest,
        index: np.ndarray,
        open_part: Callable[[int], IO[bytes]] | None = None,
    ) -> None:
        self.folder = folder
        self.parts = Parts(folder, manifest, open_part)
        self.shapes: list[Shape] = [tuple(shape) for shape in manifest.buckets]
        self.has_flips = FLIP in manifest.files
        self._index = np.asarray(index)  # a plain view: indexing a memmap is slow
        self._flips = read_flips(folder, manifest) if self.has_flips else None
        self._memory = BatchMemory()

    def entries(self, rows: np.ndarray) -> np.ndarray:
        """The index entries of `rows`, (n,) INDEX_DTYPE."""
        return self._index.take(rows)  # 1/8 of the time of indexing

    def gather(self, rows: np.ndarray, *, flipped: np.ndarray | None = None, pin: bool = False) -> Tensor:
        """The latents of `rows` (n,), all of one shape: (n, M, C, T, H, W) float16, pinned if `pin`.

        flipped: (n,) bool, of which rows the mirrored view is taken; only where `has_flips`.
        A row without latents (size 0) gives zeros. Fastest where rows are in order.
        WorkError names a part that is cut off or an index that does not fit it.
        """
        entries = self.entries(rows)
        shape = self.shapes[one_bucket(entries)]
        parts, offsets = entries["shard"].astype(np.int64), entries["offset"].astype(np.int64)
        if flipped is not None:
            if self._flips is None:
                raise ValueError(f"{self.folder} holds no mirrored views")
            offsets = np.where(flipped, self._flips.take(rows).astype(np.int64), offsets)
        size = 2 * math.prod(shape)
        out = self._memory.empty(len(rows) * size, pin=pin).view(len(rows), size)
        present = entries["size"] == size
        if present.all():
            self.parts.copy(parts, offsets, out)
        elif entries["size"][~present].any():
            raise WorkError(
                f"{self.folder}: its index has a sample that is not {size} bytes, as its shape is"
            )
        else:
            found = self._memory.empty(int(present.sum()) * size).view(-1, size)
            self.parts.copy(parts[present], offsets[present], found)
            out[torch.from_numpy(present)] = found
            out[torch.from_numpy(~present)] = 0
        return out.view(torch.float16).view(len(rows), *shape)


def one_bucket(entries: np.ndarray) -> int:
    """The bucket of all of these index entries; ValueError if there are several."""
    buckets = entries["bucket"]
    if (buckets != buckets[0]).any():
        raise ValueError(f"rows of one shape are expected, not of buckets {np.unique(buckets).tolist()}")
    return int(buckets[0])


def read_flips(folder: Path, manifest: DatasetManifest) -> np.ndarray:
    """`flip.npy`: (samples,) FLIP_DTYPE, mapped."""
    return read_sidecar(folder / FLIP, FLIP_DTYPE, manifest)


def are_finite(latents: Tensor) -> Tensor:
    """(n,) bool: whether all values of each sample of float16 (n, ...) on the CPU are finite."""
    if is_finite(latents.numpy()):
        return torch.ones(len(latents), dtype=torch.bool)
    return torch.isfinite(latents).flatten(1).all(1)


def sample_posterior(moments: Tensor, draws: Draws) -> Tensor:
    """Latents drawn from the encoder's posterior, (B, C, T, H, W) float32 (Eq. 10, arXiv:1312.6114).

    moments: (B, M, C, T, H, W): mean and log-variance; of M = 1, a stored mean, the mean is what comes back.
    """
    mean = moments[:, 0].float()
    if moments.shape[1] == 1:
        return mean
    noise = draws.normal("posterior", tuple(mean.shape[1:])).to(mean.device)
    return mean + (0.5 * moments[:, 1].float()).exp() * noise


@dataclass(frozen=True)
class LatentSums:
    """What mean and standard deviation per channel are made of; parts add up, in float64.

    count: positions.  total, squares: sums of the posterior's mean and of its square, (C,).
    variance: sum of the posterior's variance, (C,); 0 where only means are stored.
    """

    count: int
    total: tuple[float, ...]
    squares: tuple[float, ...]
    variance: tuple[float, ...]

    @classmethod
    def of(cls, latents: np.ndarray) -> LatentSums:
        """latents: (n, M, C, T, H, W), as stored."""
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
        """{"mean": [C numbers], "std": [C numbers], "count": positions}, of drawn latents."""
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

    @classmethod
    def of(cls, manifest: DatasetManifest) -> Normaliser:
        """As measured over the whole cache."""
        statistics = manifest.extra["statistics"]
        return cls(tuple(statistics["mean"]), tuple(statistics["std"]))

    def apply(self, latents: Tensor) -> Tensor:
        """latents: (B, C, T, H, W)."""
        mean, std = self._like(latents)
        return (latents - mean) / std

    def undo(self, latents: Tensor) -> Tensor:
        """latents: (B, C, T, H, W)."""
        mean, std = self._like(latents)
        return latents * std + mean

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {name: np.array(values).tolist() for name, values in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Normaliser:
        """Of what `as_dict` gives."""
        mean, std = (
            tuple(tuple(v) if isinstance(v, list) else float(v) for v in values[name])
            for name in ("mean", "std")
        )
        return cls(mean, std)

    @property
    def frames(self) -> int:
        """Latent frames that it is for; 0 is any number."""
        return len(self.mean[0]) if isinstance(self.mean[0], tuple) else 0

    def _like(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        values = torch.tensor([self.mean, self.std], dtype=latents.dtype)
        values = values.to(latents.device, non_blocking=True)  # every micro-batch: do not wait for a GPU
        values = values.reshape(2, 1, latents.shape[1], -1, 1, 1)
        if values.shape[3] > 1:
            values = values[:, :, :, : latents.shape[2]]
        mean, std = values
        return mean, std.clamp_min(1e-6)  # a channel that never changes


def compare(a: Mapping[str, Any], b: Mapping[str, Any]) -> tuple[str, Any, Any] | None:
    """The first field in which two fingerprints differ, with its value in both; None if they are equal."""
    differences: Sequence[tuple[str, Any, Any]] = difference(a, b)
    return differences[0] if differences else None
