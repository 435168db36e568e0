"""The features of samples as training sees them: gathered from the parts of a cache."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from core.errors import WorkError
from data.dataset.manifest import DatasetManifest, read_sidecar
from data.dataset.schema import FEATURE_DTYPE, FEATURES
from data.latent.checksums import SampleCrcs
from data.latent.memory import BatchMemory
from data.latent.packs import LATENT_DTYPE, Shape
from data.latent.parts import Parts
from data.latent.reading import are_finite, one_bucket


def has_features(manifest: DatasetManifest) -> bool:
    """Return whether a cache holds a picture encoder's features."""
    return FEATURES in manifest.files


def feature_shapes(manifest: DatasetManifest) -> tuple[Shape, ...]:
    """Return (F, h, w, E) of the features of each shape of latents; () where a cache holds none."""
    return (
        tuple(tuple(shape) for shape in manifest.extra["features"]["shapes"])
        if has_features(manifest)
        else ()
    )


class FeatureReader:
    """Gathers the features of samples of one shape from the parts of a cache.

    verify: as `data.latent.reading.LatentReader` takes it.
    """

    def __init__(
        self, folder: Path, manifest: DatasetManifest, parts: Parts, *, verify: bool = False
    ) -> None:
        self.folder, self._manifest, self._parts = folder, manifest, parts
        self._shapes = feature_shapes(manifest)
        self._offsets = read_sidecar(folder / FEATURES, FEATURE_DTYPE, manifest)
        self._crcs = SampleCrcs(folder, manifest) if verify else None
        self._memory = BatchMemory()

    def gather(
        self,
        rows: np.ndarray,
        entries: np.ndarray,
        *,
        flipped: np.ndarray | None = None,
        pin: bool = False,
    ) -> Tensor:
        """Return the features of `rows` (n,), all of one shape: (n, F, h, w, E) float16.

        entries: their rows of the index.  flipped: (n,) bool, of which the mirrored view's are taken.
        A row without latents gives zeros. WorkError for what lies outside of its part or is not finite.
        """
        shape = self._shapes[one_bucket(entries)]
        size = math.prod(shape) * LATENT_DTYPE.itemsize
        parts, offsets = entries["shard"].astype(np.int64), self._offsets.take(rows).astype(np.int64)
        present = entries["size"] > 0
        if not offsets[present].all():
            raise WorkError(f"{self.folder / FEATURES}: row {rows[present][0]} has latents and no features")
        if flipped is not None:
            offsets = np.where(flipped, offsets + size, offsets)
        out = self._memory.empty(len(rows) * size, pin=pin).view(len(rows), size)
        if not present.all():
            out.zero_()
        for here in np.flatnonzero(present)[:, None] if not present.all() else [np.arange(len(rows))]:
            self._parts.copy(parts[here], offsets[here], out[int(here[0]) : int(here[-1]) + 1])
        if self._crcs is not None:
            views = None if flipped is None else flipped[present]
            self._crcs.require_features(rows[present], parts[present], out[torch.from_numpy(present)], views)
        features = out.view(torch.float16).view(len(rows), *shape)
        finite = are_finite(features).numpy()
        if not finite.all():
            name = self._manifest.shards[parts[~finite][0]].name
            raise WorkError(
                f"{self.folder / name}: damaged, the features of {rows[~finite][0]} are not finite"
            )
        return features
