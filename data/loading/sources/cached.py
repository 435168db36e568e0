"""A latent cache as a source of latents."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Unpack

import numpy as np
from torch import Tensor, device

from core.batch import Batch
from core.config.yaml_files import read_recorded
from core.distributed.ranks import World
from core.run.folder import CONFIG
from data.dataset.index import Dataset
from data.latent.beside.beside_reading import feature_shapes, has_stills
from data.latent.text_reading import has_text, read_texts, require_names, unused_captions
from data.loading.loader import LatentLoader, Wanted
from data.loading.sources.kinds import Conditions, Grid, LatentFacts
from data.order.caption_choice import CaptionConfig
from data.order.steps import LoaderConfig


class StoredLatents:
    """Base of sources whose latents are computed beforehand: a batch needs no further work."""

    gives_latents = True
    text_setting = "text_encoder= of encode"

    def to(self, device: device) -> None:
        """Do nothing: all is computed."""

    def moments(self, x: Tensor) -> Tensor:
        """Return x, which are moments."""
        return x

    def features(self, batch: Batch) -> Tensor | None:
        """Return the features that the batch brings."""
        return batch.features

    def stills(self, batch: Batch) -> Tensor | None:
        """Return the stills that the batch brings."""
        return batch.stills

    def latent_grid(self, grid: Grid) -> Grid:
        """Return `grid`, which is that of latents."""
        return grid


class CachedLatents(StoredLatents):
    """The latents of one finished cache (`data.loading.sources.kinds.LatentSource`)."""

    def __init__(self, cache: Dataset) -> None:
        self.cache, manifest = cache, cache.manifest
        shapes = tuple(tuple(shape) for shape in manifest.buckets)
        self.facts = LatentFacts(
            place=cache.place,
            fingerprint=manifest.fingerprint,
            parts={cache.place: manifest.fingerprint},
            samples=manifest.samples,
            classes=manifest.classes,
            shapes=shapes,
            batch_shapes=shapes,
            made_from=manifest.extra["made_from"],
            longest_text=manifest.extra.get("longest_text"),
            feature_shapes=feature_shapes(manifest),
            has_stills=has_stills(manifest),
            frame_rates=tuple((fps, count) for fps, count in manifest.extra.get("frame_rates", ())),
        )

    def statistics(self, kept: Mapping[str, Any] | None, world: World) -> Mapping[str, Any]:
        """Return the statistics that `encode` measured over the whole cache."""
        found: Mapping[str, Any] = self.cache.manifest.extra["statistics"]
        return found

    def sample_counts(self) -> list[int]:
        """Count the samples of each bucket, those set aside included."""
        number = len(self.facts.shapes)
        return np.bincount(self.cache.index["bucket"], minlength=number)[:number].tolist()  # behind: in none

    def conditions(self) -> Conditions:
        """Count samples by class, and those without label or caption."""
        cache, textless = self.cache, self.facts.samples
        if has_text(cache.manifest):
            textless = int((read_texts(cache.folder, cache.manifest)["tokens"] == 0).sum())
        return Conditions.count(np.asarray(cache.index["label"]), len(self.facts.classes), textless)

    def check_captions(self, choice: CaptionConfig) -> list[str]:
        """Count the samples with captions of which `choice` takes none."""
        require_names(choice, [self.cache.manifest])
        line = unused_captions(self.cache.folder, self.cache.manifest, choice)
        return [line] if line else []

    def encoded_with(self, field: str) -> str:
        """Return a field of the config that `encode` kept in the cache, "" where it kept none."""
        config = self.cache.folder / CONFIG
        return str(read_recorded(config).get(field, "")) if config.is_file() else ""

    def loader(
        self,
        config: LoaderConfig,
        world: World,
        seed: int,
        micro_batch: int = 0,
        **wanted: Unpack[Wanted],
    ) -> LatentLoader:
        """Return this rank's batches of the cache."""
        return LatentLoader([self.cache], config, world, seed, micro_batch, **wanted)
