"""A latent cache as a dataset of torch."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import torch
from torch import Tensor

from data.dataset.index import Dataset
from data.latent.normalising import Normaliser
from data.latent.reading import reader_of, require_latents


class Latent(TypedDict):
    """A sample.

    latent: (C, T, H, W) float32, the posterior's mean.  label: -1 for no class.  id: of the sample's name.
    """

    latent: Tensor
    label: int
    id: int


class LatentCache(torch.utils.data.Dataset[Latent]):
    """The samples of a latent cache, in the order of its index, without those that were set aside.

    Their shapes differ by bucket, so a batch of a DataLoader has samples of one. Each process of a DataLoader
    opens the files for itself.
    classes: names by label.
    normalise: whether latents come in unit scale, by the cache's own mean and deviation of each channel.
    """

    def __init__(self, folder: Path, *, normalise: bool = True) -> None:
        self.folder = folder
        self._normalise = normalise
        self._open()
        self.classes = tuple(self._dataset.manifest.classes)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, number: int) -> Latent:
        if not -len(self) <= number < len(self):
            raise IndexError(f"sample {number} of {len(self)}")
        if self._process != os.getpid():
            self._open()
        rows = self._rows[[number % len(self)]]
        (entry,) = self._reader.entries(rows)
        mean = self._reader.gather(rows)[:, 0].float()
        latent = (self._normaliser.apply(mean) if self._normaliser else mean)[0]
        return {"latent": latent.clone(), "label": int(entry["label"]), "id": int(entry["id"])}

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "normalise": self._normalise}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["folder"], normalise=state["normalise"])  # type: ignore[misc]

    def _open(self) -> None:
        self._dataset = Dataset(str(self.folder))
        require_latents(self._dataset)
        self._rows = np.flatnonzero(np.asarray(self._dataset.index["size"]) > 0)
        self._reader = reader_of(self._dataset)
        statistics = self._dataset.manifest.extra["statistics"]
        self._normaliser = Normaliser.from_dict(statistics) if self._normalise else None
        self._process = os.getpid()
