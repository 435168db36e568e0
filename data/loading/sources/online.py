"""A raw dataset as a source of latents: decoded while training, and encoded within the step.

Which samples make up a step, and every draw, are those of training on the cache that `encode` would make of
the same source, buckets and autoencoder; latents agree to the rounding of float16.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import torch
from torch import Tensor, device

from core.batch import Batch, in_numbers
from core.distributed.ranks import World
from core.errors import UserError, WorkError, below
from core.files import fingerprint
from core.progress import counted, say
from data.dataset.faults import Fault, attempt
from data.dataset.index import Dataset, shard_starts
from data.dataset.quarantine import Quarantine
from data.dataset.schema import QUARANTINE
from data.latent.assembly import rates_of_clips, used_buckets
from data.latent.beside.views import standing_still
from data.latent.packs import Shape
from data.latent.reading import TORCH_DTYPES
from data.latent.texts import RowTexts
from data.loading.loader import Wanted, latent_buckets, patches_of_two
from data.loading.pixels import BucketTable, PixelConfig, PixelLoader
from data.loading.sources.config import EncodingConfig
from data.loading.sources.encoders import IdentifiedCaptionEncoder, PatchFeatures, PixelEncoder
from data.loading.sources.kinds import Conditions, Grid, LatentFacts
from data.loading.sources.measured import measured_sums
from data.media.images import as_tensor
from data.order.buckets import NO_BUCKET, Bucket, assign, make_buckets
from data.order.caption_choice import ANY_CAPTION, CaptionConfig
from data.order.fitting import fitting_lines
from data.order.steps import LoaderConfig
from data.order.usage import usage_lines
from data.raw.decoding import decoding_identity, read_pixels


class OnlineLatents:
    """The latents that a cache of a raw dataset would hold (`data.loading.sources.kinds.LatentSource`).

    Rows, buckets and order are those of the cache.  captions: embeds the samples' text; None leaves it out.
    run: the run's folder, which gets the quarantine list.  made_with: what `encoded_with` tells.
    pictures: makes features of the pixels; None makes none.  stills: whether to make stills of last pictures.
    """

    gives_latents = False
    text_setting = "data.online.text_encoder"

    def __init__(
        self,
        raw: Dataset,
        encoder: PixelEncoder,
        captions: IdentifiedCaptionEncoder | None,
        config: EncodingConfig,
        *,
        run: Path,
        made_with: Mapping[str, str],
        pictures: PatchFeatures | None = None,
        stills: bool = False,
    ) -> None:
        self._pictures, self._stills = pictures, stills
        self._raw, self._encoder, self._captions, self._config = raw, encoder, captions, config
        self._run, self._made_with, self._device = run, made_with, torch.device("cpu")
        self._dtype = TORCH_DTYPES[np.dtype(config.dtype).itemsize]
        media = np.asarray(raw.media)
        with below("buckets"):
            pixels = make_buckets(media, config.buckets)
        stored = 2 if config.store == "moments" else 1
        if stored > encoder.moments:
            raise UserError("store", config.store, "mean, since the autoencoder gives no more")
        shapes: list[Shape] = [(stored, *encoder.latent_shape(bucket)) for bucket in pixels]
        table = sorted(set(shapes))
        numbers = np.full(NO_BUCKET + 1, NO_BUCKET, np.uint16)
        numbers[: len(pixels)] = [table.index(shape) for shape in shapes]
        column = assign(media, pixels, config.buckets)
        self._column, used = used_buckets(numbers[column], table)
        lines = fitting_lines(media, column, pixels), usage_lines(media, column, pixels, config.buckets)
        for line in itertools.chain(*lines):
            say(line)
        by_shape = dict(zip(shapes, pixels, strict=True))
        self._buckets: list[Bucket] = [by_shape[shape] for shape in used]
        self.facts = self._describe(used)

    def _describe(self, shapes: Sequence[Shape]) -> LatentFacts:
        text = {"text": self._captions.identity} if self._captions else {}
        pictures = {"pictures": self._pictures.identity} if self._pictures else {}
        feature_shapes: list[Shape] = []
        if self._pictures is not None:
            frames = [shape[2] for shape in shapes]
            feature_shapes += map(self._pictures.feature_shape, self._buckets, frames)
        manifest, config = self._raw.manifest, self._config
        made_from = {
            **self._encoder.identity,
            **text,
            **pictures,
            "store": config.store,
            **({"dtype": config.dtype} if config.dtype != "float16" else {}),
            "views": ["plain", "flip"] if config.flip else ["plain"],
            "buckets": [str(bucket) for bucket in self._buckets],
            "clips": [config.buckets.fps, config.buckets.stride],
            **decoding_identity(self._raw, config.buckets),
            "source": {"fingerprint": manifest.fingerprint, "samples": len(self._raw)},
        }
        identity = fingerprint(made_from)
        rates = rates_of_clips(self._raw, self._column, shapes, config.buckets)
        return LatentFacts(
            place=self._raw.place,
            fingerprint=identity,
            parts={self._raw.place: identity},
            samples=len(self._raw),
            classes=manifest.classes,
            shapes=tuple(shapes),
            batch_shapes=tuple((3, *bucket) for bucket in self._buckets),
            made_from=made_from,
            longest_text=self._captions.tokens if self._captions else None,
            feature_shapes=tuple(feature_shapes),
            has_stills=True,
            frame_rates=tuple((fps, int(count)) for fps, count in rates),
        )

    def to(self, device: device) -> None:
        """Move the encoders to a device."""
        self._device = device
        self._encoder.to(device)
        if self._captions:
            self._captions.to(device)
        if self._pictures:
            self._pictures.to(device)

    def moments(self, x: Tensor) -> Tensor:
        """Return what a cache would hold of pixels (B, 3, T, H, W), uint8 too: (B, M, C, T', H', W')."""
        with torch.no_grad():
            moments = self._encoder.encode_there(in_numbers(x))
        return moments[:, : self.facts.shapes[0][0]].to(self._dtype)

    def features(self, batch: Batch) -> Tensor | None:
        """Return the features of a batch's pixels, which are cut and mirrored as they are encoded."""
        if self._pictures is None:
            return None
        shape = self.facts.feature_shapes[self.facts.batch_shapes.index(tuple(batch.x.shape[1:]))]
        with torch.no_grad():
            return self._pictures.features_there(in_numbers(batch.x), shape).to(torch.float16)

    def stills(self, batch: Batch) -> Tensor | None:
        """Return what a cache would hold of the last pictures of a batch of clips."""
        shape = self.facts.shapes[self.facts.batch_shapes.index(tuple(batch.x.shape[1:]))]
        if not self._stills or shape[2] == 1:
            return None
        return self.moments(standing_still(in_numbers(batch.x)))[:, :1, :, -1:]

    def statistics(self, kept: Mapping[str, Any] | None, world: World) -> Mapping[str, Any]:
        """Return the kept statistics, else measure samples, each rank a share (collective: all ranks)."""
        if kept is not None:
            return kept
        rows = np.flatnonzero(self._column != NO_BUCKET)
        count = min(len(rows), self._config.statistics_samples)
        rows = rows[np.arange(count) * len(rows) // count] if count else rows
        total = measured_sums(rows, self._latents, world)
        if total is None:
            raise WorkError(f"none of {counted(count, 'sample')} of {self._raw.folder} could be encoded")
        return total.statistics()

    def sample_counts(self) -> list[int]:
        """Count the samples of each bucket."""
        number = len(self._buckets)
        return np.bincount(self._column, minlength=number)[:number].tolist()  # behind: in no bucket

    def conditions(self) -> Conditions:
        """Count samples by class; captions are read as samples come."""
        textless = None if self._captions else len(self._raw)
        return Conditions.count(np.asarray(self._raw.index["label"]), len(self.facts.classes), textless)

    def check_captions(self, choice: CaptionConfig) -> list[str]:
        """Return nothing: captions are read as samples come, and what is not taken is said then."""
        return []

    def encoded_with(self, field: str) -> str:
        """Return a field of the config that `encode` would be given."""
        return self._made_with.get(field, "")

    def latent_grid(self, grid: Grid) -> Grid:
        """Return the shape of the latents of (T, H, W) pixels: frames, rows and columns."""
        return self._encoder.latent_shape(Bucket(*grid))[1:]

    def loader(
        self,
        config: LoaderConfig,
        world: World,
        seed: int,
        micro_batch: int = 0,
        **wanted: Unpack[Wanted],
    ) -> PixelLoader:
        """Return this rank's batches of pixels, in the order and with the draws of a loader of the cache."""
        own, budget, starts = self._config, self._config.quarantine_budget, shard_starts(self._raw)
        captions, tokens = wanted.get("captions", ANY_CAPTION), wanted.get("tokens", patches_of_two)
        embedder = self._captions if wanted.get("text", True) else None
        return PixelLoader(
            self._raw,
            PixelConfig(
                **{field.name: getattr(config, field.name) for field in fields(LoaderConfig)},
                buckets=own.buckets,
                limits=own.limits,
                clip="centre",
                flip=own.flip,
                threads=own.threads,
                quarantine_budget=budget,
            ),
            world,
            seed,
            micro_batch,
            quarantine=Quarantine(
                self._run / QUARANTINE,
                total=len(self._raw),
                budget=budget,
                field="data.online.quarantine_budget",
            ),
            texts=RowTexts(self._raw, embedder, captions) if embedder else None,
            table=BucketTable(
                self._buckets,
                latent_buckets(self._column, starts, self.facts.shapes, tokens),
                int((self._column == NO_BUCKET).sum()),
            ),
        )

    def _latents(self, row: int) -> np.ndarray | None:
        """Encode a sample to (1, M, C, T, H, W); None if it cannot be decoded or is not finite."""
        config, bucket = self._config, self._buckets[int(self._column[row])]
        read = partial(read_pixels, self._raw, row, bucket, config.buckets, config.limits)
        pixels = attempt(read, "decode", f"sample {row}")
        if isinstance(pixels, Fault):
            return None  # recorded when a step comes to it, since only then it is missed
        latents = self.moments(as_tensor(pixels[None]).to(self._device)).cpu().numpy()
        return latents if np.isfinite(latents).all() else None
