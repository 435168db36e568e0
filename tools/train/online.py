"""Training without a cache: raw shards are decoded while training and encoded within the step.

Which samples make up a step, and every draw, are those of training on the cache that `encode` would make of
the same source, buckets and autoencoder; latents agree to the rounding of float16.
"""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from core.batch import Batch
from core.diffusion.objective import Model
from core.distributed.ranks import World
from core.draws import Draws
from core.errors import UserError, WorkError
from core.files import fingerprint
from core.losses import Losses, Objective
from core.progress import Progress
from data.dataset.index import Dataset, shard_starts
from data.dataset.quarantine import QUARANTINE, Quarantine
from data.dataset.schema import DatasetManifest
from data.latent.assembly import used_buckets
from data.latent.normalising import LatentSums
from data.latent.packs import Shape
from data.latent.texts import RowTexts
from data.loading.loader import latent_stocks
from data.loading.pixels import BucketTable, PixelConfig, PixelLoader, read_pixels
from data.media.formats import MediaError
from data.media.images import to_tensor
from data.order.buckets import NO_BUCKET, Bucket, assign, make_buckets
from data.order.order import count_buckets
from data.order.steps import LoaderConfig
from tools.encode.encoders import AutoencoderEncoder, CaptionEmbedder, Clock
from tools.train.config import DataConfig, OnlineConfig

LATENTS = "latents.json"


class OnlineCache(Dataset):
    """A raw dataset, seen as the latent cache that `encode` would make of it: same rows, buckets and order.

    Its manifest has no statistics before `measure`.
    """

    def __init__(self, source: Path | str, autoencoder: Path, config: OnlineConfig) -> None:
        self.raw, self.config = Dataset(source), config
        if self.raw.manifest.kind != "raw":
            raise UserError(
                "source", source, "a raw dataset, since data.encode=online; this is a latent cache"
            )
        cpu = torch.device("cpu")
        self.encoder = AutoencoderEncoder(autoencoder, cpu, config.precision, config.tiling, Clock())
        self.captions = None
        if config.text_encoder:
            folder = Path(config.text_encoder)
            try:
                self.captions = CaptionEmbedder(folder, config.text_tokens, cpu, config.precision, Clock())
            except UserError as error:
                raise UserError(f"data.online.{error.field}", error.value, error.expected) from None
        self.folder, self.place, media = self.raw.folder, self.raw.place, np.asarray(self.raw.media)
        pixels = make_buckets(media, config.buckets)
        stored = 2 if config.store == "moments" else 1
        if stored > self.encoder.moments:
            raise UserError("data.online.store", config.store, "mean, since the autoencoder gives no more")
        shapes: list[Shape] = [(stored, *self.encoder.latent_shape(bucket)) for bucket in pixels]
        table = sorted(set(shapes))
        numbers = np.full(NO_BUCKET + 1, NO_BUCKET, np.uint16)
        numbers[: len(pixels)] = [table.index(shape) for shape in shapes]
        column, used = used_buckets(numbers[assign(media, pixels, config.buckets)], table)
        by_shape = dict(zip(shapes, pixels, strict=True))
        self.buckets: list[Bucket] = [by_shape[shape] for shape in used]
        self.index = np.array(self.raw.index)
        self.index["bucket"] = column
        self.manifest = self._manifest([list(shape) for shape in used])

    def _manifest(self, shapes: list[list[int]]) -> DatasetManifest:
        text = {"text": self.captions.identity} if self.captions else {}
        made_from = {
            **self.encoder.identity,
            **text,
            "store": self.config.store,
            "views": ["plain", "flip"] if self.config.flip else ["plain"],
            "buckets": [str(bucket) for bucket in self.buckets],
            "clips": [self.config.buckets.fps, self.config.buckets.stride],
            "source": {"fingerprint": self.raw.manifest.fingerprint, "samples": len(self.raw)},
        }
        counts = count_buckets(self.index["bucket"], shard_starts(self.raw), len(shapes))
        return DatasetManifest(
            kind="latent",
            fingerprint=fingerprint(made_from),
            shards=self.raw.manifest.shards,
            classes=self.raw.manifest.classes,
            buckets=tuple(shapes),
            extra={
                "made_from": made_from,
                "bucket_counts": counts.tolist(),
                **({"longest_text": self.captions.tokens} if self.captions else {}),
            },
        )

    def to(self, device: torch.device) -> None:
        """Let the encoders compute on a device."""
        self.encoder.autoencoder.to(device)
        if self.captions:
            self.captions.encoder.to(device)

    def statistics(self, run: Path) -> dict[str, Any]:
        """Mean and standard deviation per channel: those the run was begun with, else measured now."""
        if (run / LATENTS).exists():
            kept = json.loads((run / LATENTS).read_text(encoding="utf-8"))
            return {name: kept[name] for name in ("mean", "std")}
        sums: LatentSums | None = None
        rows = np.flatnonzero(self.index["bucket"] != NO_BUCKET)
        count = min(len(rows), self.config.statistics_samples)
        rows = rows[np.arange(count) * len(rows) // count]
        with Progress(count, "measure latents") as progress:
            for row in rows.tolist():
                if (latents := self._latents(row)) is not None:
                    more = LatentSums.of(latents)
                    sums = more if sums is None else sums + more
                progress.advance()
        if sums is None:
            raise WorkError(f"none of {count} samples of {self.folder} could be encoded")
        return sums.statistics()

    def measure(self, statistics: dict[str, Any]) -> None:
        """Take these statistics into the manifest."""
        self.manifest = replace(self.manifest, extra={**self.manifest.extra, "statistics": statistics})

    def latent_grid(self, pixels: tuple[int, ...]) -> tuple[int, int, int]:
        """Latent frames, rows and columns of (T, H, W) pixels."""
        frames, height, width = pixels
        return self.encoder.latent_shape(Bucket(frames, height, width))[1:]

    def _latents(self, row: int) -> np.ndarray | None:
        """(1, M, C, T, H, W) float16 of a sample; None if it cannot be decoded or is not finite."""
        bucket = int(self.index["bucket"][row])
        try:
            pixels = read_pixels(self.raw, row, self.buckets[bucket], self.config.buckets, self.config.limits)
        except MediaError:
            return None
        x = to_tensor(pixels[None]).to(next(self.encoder.autoencoder.parameters()).device)
        latents = self.moments(x).cpu().numpy()
        return latents if np.isfinite(latents).all() else None

    def moments(self, pixels: Tensor) -> Tensor:
        """What a cache holds of pixels (B, 3, T, H, W): (B, M, C, T', H', W') float16, on their device."""
        with torch.no_grad():
            moments: Tensor = self.encoder.autoencoder.encode(pixels)
        return moments[:, : self.manifest.buckets[0][0]].to(torch.float16)


class OnlineLoader(PixelLoader):
    """Yields pixels in the order, and with the draws, of a loader of the cache; text, if `text`, embedded."""

    def __init__(
        self,
        cache: OnlineCache,
        config: DataConfig,
        world: World,
        seed: int,
        micro_batch: int,
        *,
        patch: tuple[int, int, int],
        run: Path,
        text: bool = True,
    ) -> None:
        online, budget = cache.config, cache.config.quarantine_budget
        same = {field.name: getattr(config, field.name) for field in fields(LoaderConfig)}
        super().__init__(
            cache.raw,
            PixelConfig(
                **same,
                buckets=online.buckets,
                limits=online.limits,
                clip="centre",
                flip=online.flip,
                threads=online.threads,
                quarantine_budget=budget,
            ),
            world,
            seed,
            micro_batch,
            quarantine=Quarantine(run / QUARANTINE, total=len(cache.raw), budget=budget),
            texts=RowTexts(cache.raw, cache.captions) if text and cache.captions else None,
            table=BucketTable(
                cache.buckets,
                latent_stocks(cache, 0, patch),
                int((cache.index["bucket"] == NO_BUCKET).sum()),
            ),
        )


class OnlineObjective:
    """An objective on a cache's batches, for batches of pixels."""

    def __init__(self, cache: OnlineCache, objective: Objective) -> None:
        self._cache, self._objective = cache, objective

    def loss(self, model: Model, batch: Batch, draws: Draws) -> Losses:
        """batch.x: pixels (B, 3, T, H, W)."""
        return self._objective.loss(model, replace(batch, x=self._cache.moments(batch.x)), draws)
