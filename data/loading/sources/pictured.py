"""A latent cache whose pictures are read once more while training, for features that it does not hold.

Every sample is cut as the cache's was and mirrored where its latent is, so that features are those that
`encode` would have stored.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, Unpack

import numpy as np
import torch
from torch import Tensor

from core.batch import Batch, in_numbers
from core.config.loading import from_dict
from core.config.yaml_files import read_section
from core.distributed.ranks import World
from core.draws import Draws
from core.errors import UserError, WorkError
from core.files import fingerprint
from core.run.folder import CONFIG
from data.dataset.index import Dataset
from data.latent.packs import Shape
from data.latent.reading import compare
from data.loading.loader import LatentLoader, Wanted, draw_flips
from data.loading.sources.cached import CachedLatents
from data.loading.sources.encoders import PatchFeatures
from data.media.formats import MediaError, MediaLimits
from data.order.buckets import Bucket, BucketConfig, assign, make_buckets
from data.order.steps import LoaderConfig
from data.raw.decoding import decoding_identity, read_pixels


class Pictures:
    """The pictures of a cache's samples, in the raw dataset that it was encoded from.

    UserError, naming `field`, where the raw dataset is another one or is read otherwise than it was.
    """

    def __init__(self, cache: Dataset, raw: Dataset, field: str) -> None:
        self.raw, made_from = raw, cache.manifest.extra["made_from"]
        encoded, found = made_from.get("source", {}).get("fingerprint", ""), raw.manifest.fingerprint
        if encoded != found:
            origin = f"the raw dataset {encoded[:12]}, from which {cache.place} was encoded"
            raise UserError(field, raw.place, f"{origin}; this is {found[:12]}")
        config = cache.folder / CONFIG
        self.clips = from_dict(BucketConfig, read_section(config, "buckets"))
        self.limits = from_dict(MediaLimits, read_section(config, "limits"))
        media = np.asarray(raw.media)
        self.buckets: list[Bucket] = list(make_buckets(media, self.clips))
        now = {"buckets": list(map(str, self.buckets)), **decoding_identity(raw, self.clips)}
        before = {name: made_from["preprocessing"].get(name) for name in now}
        if (differs := compare(before, now)) is not None:
            expected = f"pictures read with {differs[0]}={differs[1]}, as encoded; now it is {differs[2]}"
            raise UserError(field, raw.place, expected)
        self.column = assign(media, self.buckets, self.clips)

    def read(self, row: int, frames: int, flip: bool) -> np.ndarray:
        """Return the middle frame of each of `frames` equal parts of a sample: uint8 (3, F, H, W)."""
        bucket = self.buckets[int(self.column[row])]
        try:
            pixels = read_pixels(self.raw, row, bucket, self.clips, self.limits, flip=flip)
        except MediaError as error:
            raise WorkError(f"{self.raw.place}: sample {row} has latents, and now {error}") from None
        taken = [(2 * number + 1) * len(pixels) // (2 * frames) for number in range(frames)]
        return np.moveaxis(pixels[taken], -1, 0)


class PicturedLatents(CachedLatents):
    """The latents of a cache, and features of its pictures (`data.loading.sources.kinds.LatentSource`).

    threads: that read pictures.
    """

    def __init__(self, cache: Dataset, pictures: Pictures, encoder: PatchFeatures, threads: int) -> None:
        super().__init__(cache)
        self._pictures, self._encoder, self._threads = pictures, encoder, threads
        made_from = {**self.facts.made_from, "pictures": encoder.identity}
        identity = fingerprint({"cache": cache.manifest.fingerprint, "pictures": encoder.identity})
        buckets = [self._pixels_of(number) for number in range(len(self.facts.shapes))]
        frames = [shape[2] for shape in self.facts.shapes]
        self.facts = replace(
            self.facts,
            fingerprint=identity,
            parts={cache.place: identity},
            made_from=made_from,
            feature_shapes=tuple(map(encoder.feature_shape, buckets, frames)),
            picture_shapes=tuple((3, f, b.height, b.width) for b, f in zip(buckets, frames, strict=True)),
        )

    def _pixels_of(self, number: int) -> Bucket:
        """Return the bucket of pixels whose samples have the latents of bucket `number`."""
        rows = np.flatnonzero(np.asarray(self.cache.index["bucket"]) == number)
        return self._pictures.buckets[int(self._pictures.column[rows[0]])]

    def to(self, device: torch.device) -> None:
        """Move the picture encoder to this device."""
        self._encoder.to(device)

    def features(self, batch: Batch) -> Tensor | None:
        """Return the features of the pictures that a batch brings."""
        if batch.features is None:
            return None
        shape = self.facts.feature_shapes[self.facts.picture_shapes.index(tuple(batch.features.shape[1:]))]
        with torch.no_grad():
            return self._encoder.features_there(in_numbers(batch.features), shape).to(torch.float16)

    def loader(
        self,
        config: LoaderConfig,
        world: World,
        seed: int,
        micro_batch: int = 0,
        **wanted: Unpack[Wanted],
    ) -> Any:
        """Return this rank's batches of the cache, with pictures in the first `feature_steps` steps."""
        feature_steps = wanted.pop("feature_steps", 0)
        plain = LatentLoader([self.cache], config, world, seed, micro_batch, **wanted)
        return plain if feature_steps == 0 else _Loader(plain, self._pictures, self._threads, feature_steps)


class _Loader:
    """The batches of a loader, with the pictures of their samples."""

    def __init__(
        self, plain: LatentLoader, pictures: Pictures, threads: int, feature_steps: int | None
    ) -> None:
        self._plain, self._pictures, self._steps, self.plan = plain, pictures, feature_steps, plain.plan
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="pictures")

    def load(self, step_index: int) -> list[Batch]:
        """Load the micro-batches of one step."""
        loaded = self._plain.load(step_index)
        if self._steps is not None and step_index >= self._steps:
            return loaded
        return [self._with_pictures(batch, step_index) for batch in loaded]

    def largest(self) -> list[Batch]:
        """Return micro-batches that take as much memory as any; none if all are of one shape."""
        return [self._with_pictures(batch, 0) for batch in self._plain.largest()]

    def _with_pictures(self, batch: Batch, step_index: int) -> Batch:
        """Return a batch with pictures (B, 3, F, H, W) uint8; zeros where a sample has no latents."""
        rows, count, frames = batch.id.tolist(), len(batch), batch.x.shape[3]
        flips = [False] * count
        if self._plain.has_flips:
            flips = draw_flips(Draws(self._plain.seed, step_index, batch.id, batch.position)).tolist()
        there = [place for place, weight in enumerate(batch.weight.tolist()) if weight]
        chosen = [rows[place] for place in there], [frames] * len(there), [flips[place] for place in there]
        read = list(self._threads.map(self._pictures.read, *chosen))
        shape = read[0].shape if read else self._shape_of(rows[0], frames)
        pictures = np.zeros((count, *shape), np.uint8)
        pictures[there] = read
        return replace(batch, features=torch.from_numpy(pictures))

    def _shape_of(self, row: int, frames: int) -> Shape:
        bucket = self._pictures.buckets[int(self._pictures.column[row])]
        return (3, frames, bucket.height, bucket.width)
