"""Real latents of a cache: whose conditions samples have, and which these are compared with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from core.draws import Draws
from core.errors import UserError
from core.files import fingerprint
from data.latent.normalising import sample_posterior
from data.latent.reading import LatentReader, compare, reader_of
from data.latent.text_reading import TextReader, has_text
from tools.evaluate.density.cache_rows import Rows, batches, some_rows
from tools.evaluate.moments import Moments, Reference
from tools.preview.latent_features import LatentFeatures
from tools.runs.loaded_run import LatentSpace
from tools.sample.prompts import Prompts

if TYPE_CHECKING:
    from data.dataset.index import Dataset

BATCH = 64  # latents read at once


def require_like(cache: Dataset, space: LatentSpace) -> None:
    """Refuse a cache of other latents, classes or texts than the run's."""
    manifest = cache.manifest
    if manifest.kind != "latent":
        raise UserError("real", cache.place, "a latent cache; this is a raw dataset")
    made_from = manifest.extra["made_from"]
    if made_from["encoder"] != space.encoder:
        expected = f"a cache made by the run's encoder {space.encoder[:12]}, not {made_from['encoder'][:12]}"
        raise UserError("real", cache.place, expected)
    if space.classes and tuple(manifest.classes) != tuple(space.classes):
        raise UserError("real", cache.place, f"a cache of the run's {len(space.classes)} classes")
    text = made_from.get("text")
    if space.text is not None and text is None:
        raise UserError("real", cache.place, "a cache with captions, which the run was trained on")
    if space.text is not None and (differs := compare(space.text, text)) is not None:
        raise UserError("real", cache.place, f"a cache with captions of the run's {differs[0]}={differs[1]}")


def choose(cache: Dataset, samples: int, most: int, seed: int) -> tuple[Rows, Rows]:
    """Return rows whose conditions `samples` samples take, in order of shape, and at most `most` others.

    UserError where there are not as many others.
    """
    found = some_rows(cache, samples + most, seed, "evaluation")
    if len(found) < 2 * samples:
        expected = f"at most {len(found) // 2}, half of the samples of {cache.place}"
        raise UserError("samples", samples, expected)
    taken = found[:samples]
    order = np.argsort(np.asarray(cache.index["bucket"])[taken], kind="stable")
    return taken[order], found[samples:]


@dataclass(frozen=True)
class RealLatents:
    """An open cache, whose latents are normalised as the run's."""

    cache: Dataset
    space: LatentSpace
    seed: int

    def moments(self, rows: Rows, features: LatentFeatures) -> Moments:
        """Return the sums of features of real latents, drawn from the encoder's posterior as in training."""
        reader, sums = reader_of(self.cache), Moments.empty(features.width)
        for some in batches(self.cache, np.sort(rows), BATCH):
            ids = torch.from_numpy(reader.entries(some)["id"].astype(np.int64))
            latents = sample_posterior(reader.gather(some), Draws(self.seed, 0, ids, torch.zeros_like(ids)))
            sums.add(features.of(self.space.normaliser.apply(latents)).numpy())
        return sums

    def measured(self, features: LatentFeatures, own: Rows, others: Rows) -> tuple[Reference, float]:
        """Return the reference of `others`, and the distance of `own` real latents from it."""
        reference = Reference.of(self.moments(others, features))
        return reference, reference.distance(self.moments(own, features))

    def labels(self, rows: Rows) -> NDArray[np.int64]:
        """Return the class of each row, -1 for none."""
        return np.asarray(self.cache.index["label"])[rows].astype(np.int64)

    def shapes(self, rows: Rows) -> tuple[list[tuple[int, int, int, int]], NDArray[np.int64]]:
        """Return the different shapes (C, T, H, W) of rows, and the number of each row's."""
        buckets, number = np.unique(np.asarray(self.cache.index["bucket"])[rows], return_inverse=True)
        known = self.cache.manifest.buckets
        return [(c, t, h, w) for _, c, t, h, w in (known[bucket] for bucket in buckets)], number

    def captions(self, rows: Rows, samples: Sequence[int], device: torch.device) -> Prompts | None:
        """Return the embedded captions of some samples, by the samples' numbers; None for a run without text.

        samples: numbers of those that are read.  Of several captions of one the first is taken.
        """
        if self.space.text is None or not has_text(self.cache.manifest):
            return None
        reader: LatentReader = reader_of(self.cache)
        texts = TextReader(self.cache.folder, self.cache.manifest, reader.parts)
        read = rows[np.asarray(samples, np.int64)]
        tokens, lengths = texts.gather(read, reader.entries(read)["shard"])
        return Prompts(("",) * len(samples), tokens.to(device), lengths.to(device))

    def ruler(self, own: Rows, others: Rows) -> dict[str, Any]:
        """Return what a score says of the real side."""
        return {
            "measure": "latents while training",
            "real": self.cache.manifest.fingerprint,
            "encoder": self.space.encoder,
            "normaliser": fingerprint(self.space.normaliser.as_dict()),
            "count": len(own),
            "reference_count": len(others),
            "conditions": "those of real samples that are not in the reference",
            "seed": self.seed,
        }
