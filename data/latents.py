"""The latent cache as training sees it: gathering rows, statistics, normalising, posterior samples."""

from __future__ import annotations

import itertools
import mmap
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from core.config import difference
from core.draws import Draws
from core.errors import WorkError
from data.packs import Shape
from data.schema import FLIP, FLIP_DTYPE, DatasetManifest, read_sidecar

_SCRATCH_VALUES = 1 << 19  # 1 MiB, which stays in a core's cache
_MAPPED_PARTS = 256  # each holds a file descriptor; common limits are 1024 a process


class LatentReader:
    """Gathers samples of one shape from the parts of a cache, straight into one tensor.

    index: (samples,) INDEX_DTYPE, may be a memory map.  Parts are mapped when first needed, so what is read
    stays in the page cache, and reads of neighbouring rows are one range. Not for several threads at once.
    has_flips: whether the cache also holds every sample mirrored left to right.
    open_part: opens the part with a number, in place of those in `folder` (a cache behind a URL).
    """

    def __init__(
        self,
        folder: Path,
        manifest: DatasetManifest,
        index: np.ndarray,
        open_part: Callable[[int], IO[bytes]] | None = None,
    ) -> None:
        self.folder, self.manifest = folder, manifest
        self._open = open_part or self._open_in_folder
        self.shapes: list[Shape] = [tuple(shape) for shape in manifest.buckets]
        self._index = np.asarray(index)
        self._maps: OrderedDict[int, Tensor] = OrderedDict()
        self.has_flips = FLIP in manifest.files
        self._flips = read_flips(folder, manifest) if self.has_flips else None
        missing = {shard.name for shard in manifest.shards} - {entry.name for entry in folder.iterdir()}
        if missing and open_part is None:
            raise WorkError(f"{folder / min(missing)}: missing, as are {len(missing) - 1} other parts")

    def _open_in_folder(self, part: int) -> IO[bytes]:
        return open(self.folder / self.manifest.shards[part].name, "rb")

    def gather(self, rows: np.ndarray, *, flipped: np.ndarray | None = None, pin: bool = False) -> Tensor:
        """The latents of `rows` (n,), all of one shape: (n, M, C, T, H, W) float16, pinned if `pin`.

        flipped: (n,) bool, of which rows the mirrored view is taken; only where `has_flips`.
        A row without latents (size 0) gives zeros. Fastest where rows of one part stand together.
        WorkError names a part that is cut off or an index that does not fit it.
        """
        entries = self._index[rows]
        if flipped is not None:
            if self._flips is None:
                raise ValueError(f"{self.folder} holds no mirrored views")
            entries["offset"] = np.where(flipped, self._flips[rows], entries["offset"])
        buckets = np.unique(entries["bucket"])
        if len(buckets) != 1:
            raise ValueError(f"rows of one shape are expected, not of buckets {buckets.tolist()}")
        shape = self.shapes[buckets[0]]
        size = 2 * int(np.prod(shape))
        present = entries["size"] > 0
        if present.all():
            out = torch.empty((len(rows), size), dtype=torch.uint8, pin_memory=pin)
            self._copy(entries, size, out)
        else:
            out = torch.zeros((len(rows), size), dtype=torch.uint8, pin_memory=pin)
            found = torch.empty((int(present.sum()), size), dtype=torch.uint8)
            self._copy(entries[present], size, found)
            out[torch.from_numpy(present)] = found
        return out.view(torch.float16).view(len(rows), *shape)

    def _copy(self, entries: np.ndarray, size: int, out: Tensor) -> None:
        """One gather for each run of entries from one part."""
        if (entries["size"] != size).any():
            raise WorkError(
                f"{self.folder}: its index has a sample that is not {size} bytes, as its shape is"
            )
        shards, offsets = entries["shard"].astype(np.int64), entries["offset"].astype(np.int64)
        edges = np.flatnonzero(np.diff(shards, prepend=-1, append=-1)).tolist()
        for start, stop in itertools.pairwise(edges):
            part, here = self.part(int(shards[start])), offsets[start:stop]
            if here.max() + size > len(part):
                name = self.manifest.shards[shards[start]].name
                raise WorkError(f"{self.folder / name}: the index points behind its end")
            windows = torch.as_strided(part, (len(part) - size + 1, size), (1, 1))
            torch.index_select(windows, 0, torch.from_numpy(here), out=out[start:stop])

    def part(self, shard: int) -> Tensor:
        """The bytes of a part, (bytes,) uint8, mapped."""
        if shard not in self._maps:
            record = self.manifest.shards[shard]
            with self._open(shard) as file:
                # A private map: torch wants writable memory, and nothing writes.
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
            if len(mapped) != record.bytes:
                raise WorkError(
                    f"{self.folder / record.name}: has {len(mapped)} bytes, the manifest says {record.bytes}"
                )
            self._maps[shard] = torch.frombuffer(mapped, dtype=torch.uint8)
            if len(self._maps) > _MAPPED_PARTS:
                self._maps.popitem(last=False)
        self._maps.move_to_end(shard)
        return self._maps[shard]


def read_flips(folder: Path, manifest: DatasetManifest) -> np.ndarray:
    """`flip.npy`: (samples,) FLIP_DTYPE, mapped."""
    return read_sidecar(folder / FLIP, FLIP_DTYPE, manifest)


def are_finite(latents: Tensor) -> Tensor:
    """(n,) bool: whether all values of each sample of float16 (n, ...) are finite.

    Without the sign, bit patterns are ordered as magnitudes, infinity being 0x7C00 and NaN above. On a CPU
    this takes 1/25 of the time of `torch.isfinite`, its plain twin.
    """
    bits = latents.view(torch.int16).flatten(1)
    largest = torch.empty(len(bits), dtype=torch.int16, device=bits.device)
    some = max(1, _SCRATCH_VALUES // max(1, bits.shape[1]))
    scratch = bits.new_empty(min(some, len(bits)), bits.shape[1])
    for start in range(0, len(bits), some):
        piece = bits[start : start + some]
        magnitudes = torch.bitwise_and(piece, 0x7FFF, out=scratch[: len(piece)])
        torch.amax(magnitudes, 1, out=largest[start : start + some])
    return largest < 0x7C00


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
        values = torch.tensor([self.mean, self.std], dtype=latents.dtype, device=latents.device)
        values = values.reshape(2, 1, latents.shape[1], -1, 1, 1)
        if values.shape[3] > 1:
            values = values[:, :, :, : latents.shape[2]]
        mean, std = values
        return mean, std.clamp_min(1e-6)  # a channel that never changes


def compare(a: Mapping[str, Any], b: Mapping[str, Any]) -> tuple[str, Any, Any] | None:
    """The first field in which two fingerprints differ, with its value in both; None if they are equal."""
    differences: Sequence[tuple[str, Any, Any]] = difference(a, b)
    return differences[0] if differences else None
