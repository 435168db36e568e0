"""Features and stills of samples as training sees them: gathered from the parts of a cache."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import Tensor

from core.errors import WorkError
from data.dataset.manifest import DatasetManifest, read_sidecar
from data.dataset.schema import FEATURE_DTYPE, FEATURES, STILL_DTYPE, STILLS
from data.latent.checksums import SampleCrcs
from data.latent.memory import BatchMemory
from data.latent.packs import LATENT_DTYPE, Shape, still_shape
from data.latent.parts import Parts
from data.latent.reading import TORCH_DTYPES, are_finite, one_bucket


def has_features(manifest: DatasetManifest) -> bool:
    """Return whether a cache holds a picture encoder's features."""
    return FEATURES in manifest.files


def has_stills(manifest: DatasetManifest) -> bool:
    """Return whether a cache holds the last picture of every clip as a still."""
    return STILLS in manifest.files


def feature_shapes(manifest: DatasetManifest) -> tuple[Shape, ...]:
    """Return (F, h, w, E) of the features of each shape of latents; () where a cache holds none."""
    return (
        tuple(tuple(shape) for shape in manifest.extra["features"]["shapes"])
        if has_features(manifest)
        else ()
    )


@dataclass(frozen=True)
class Beside:
    """A kind of data stored beside latents.

    name: of its file.  column: those of `crc.npy` that check it.  table: dtype of its file.
    shapes: of one view of a sample of each bucket, () for a bucket without.  dtype: of its numbers.
    """

    name: str
    column: str
    table: np.dtype
    shapes: Sequence[Shape]
    dtype: np.dtype

    @classmethod
    def features(cls, manifest: DatasetManifest) -> Self:
        """Return that of features, (F, h, w, E) float16."""
        return cls(FEATURES, "features", FEATURE_DTYPE, feature_shapes(manifest), LATENT_DTYPE)

    @classmethod
    def stills(cls, manifest: DatasetManifest) -> Self:
        """Return that of stills, (1, C, 1, H, W) of the dtype of the latents; pictures have none."""
        shapes = [still_shape(tuple(shape)) if shape[2] > 1 else () for shape in manifest.buckets]
        return cls(STILLS, "still", STILL_DTYPE, shapes, manifest.latent_dtype)


class BesideReader:
    """Gathers features or stills of samples of one shape from the parts of a cache.

    verify: as `data.latent.reading.LatentReader` takes it.
    """

    def __init__(
        self, folder: Path, manifest: DatasetManifest, parts: Parts, kind: Beside, *, verify: bool = False
    ) -> None:
        self.folder, self._manifest, self._parts, self._kind = folder, manifest, parts, kind
        self._offsets = read_sidecar(folder / kind.name, kind.table, manifest)
        self._crcs = SampleCrcs(folder, manifest) if verify else None
        self._memory = BatchMemory()

    def gather(
        self,
        rows: np.ndarray,
        entries: np.ndarray,
        *,
        flipped: np.ndarray | None = None,
        pin: bool = False,
    ) -> Tensor | None:
        """Return what lies beside `rows` (n,), all of one shape: (n, *shape); None for a bucket without.

        entries: their rows of the index.  flipped: (n,) bool, of which the mirrored view's are taken.
        A row without latents gives zeros. WorkError for what lies outside of its part or is not finite.
        """
        kind, shape = self._kind, self._kind.shapes[one_bucket(entries)]
        if not shape:
            return None
        size = math.prod(shape) * kind.dtype.itemsize
        parts, offsets = entries["shard"].astype(np.int64), self._offsets.take(rows).astype(np.int64)
        present = entries["size"] > 0
        if not offsets[present].all():
            row = rows[present][0]
            raise WorkError(f"{self.folder / kind.name}: row {row} has latents and no {kind.column}")
        if flipped is not None:
            offsets = np.where(flipped, offsets + size, offsets)
        out = self._memory.empty(len(rows) * size, pin=pin).view(len(rows), size)
        if not present.all():
            out.zero_()
        for here in np.flatnonzero(present)[:, None] if not present.all() else [np.arange(len(rows))]:
            self._parts.copy(parts[here], offsets[here], out[int(here[0]) : int(here[-1]) + 1])
        if self._crcs is not None:
            views = None if flipped is None else flipped[present]
            found = out[torch.from_numpy(present)]
            self._crcs.require_beside(kind.column, rows[present], parts[present], found, views)
        values = out.view(TORCH_DTYPES[kind.dtype.itemsize]).view(len(rows), *shape)
        finite = are_finite(values).numpy()
        if not finite.all():
            name, row = self._manifest.shards[parts[~finite][0]].name, rows[~finite][0]
            raise WorkError(f"{self.folder / name}: damaged, the {kind.column} of {row} are not finite")
        return values
