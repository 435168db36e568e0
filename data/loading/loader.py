"""The loader of latent caches: equal steps, whatever the number of ranks or the micro-batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from threading import Lock
from typing import TYPE_CHECKING, TypedDict

import numpy as np
import torch

from core.batch import Batch, Condition
from core.distributed.agreement import tally
from core.draws import Draws
from data.dataset.index import shard_starts
from data.dataset.schema import BUCKET_COUNTS
from data.latent.beside.beside_reading import Beside, BesideReader
from data.latent.packs import Shape
from data.latent.reading import reader_of, require_latents
from data.latent.text_reading import TextReader, has_text, text_shape
from data.order.bucket_rows import BucketRows, Column, count_buckets
from data.order.caption_choice import ANY_CAPTION, CaptionConfig
from data.order.steps import BucketSamples, LoaderConfig, MicroBatchRows, StepPlan

if TYPE_CHECKING:
    from core.distributed.ranks import World
    from data.dataset.index import Dataset
    from data.dataset.manifest import DatasetManifest

TokenCount = Callable[[tuple[int, int, int]], int]


class Wanted(TypedDict, total=False):
    """Optional arguments of a loader: which parts of a batch are wanted.

    tokens: how many the network makes of latents (T, H, W), for the cost of a sample; patches of 1 x 2 x 2.
    text: whether batches carry embedded captions; they do.  captions: which of several are drawn; any.
    feature_steps: the number of first steps whose batches carry features, None for all; 0.
    stills: whether batches of clips carry their last pictures as stills; they do not.
    """

    tokens: TokenCount
    text: bool
    captions: CaptionConfig
    feature_steps: int | None
    stills: bool


IDS = 10**12  # ids of the second cache of a mixture begin here, of the third at twice this


def patches_of_two(shape: tuple[int, int, int]) -> int:
    """Count patches of 1 x 2 x 2 latent positions, including those at the edge."""
    frames, height, width = shape
    return frames * -(-height // 2) * -(-width // 2)


class LatentLoader:
    """Gives, for each optimizer step, the list of this rank's micro-batches of latent moments.

    caches: latent caches of one encoder.  mix: share of the groups of each; () follows their samples.
    micro_batch: most samples a rank takes at once; 0 is its whole share of a group.
    tokens: how many tokens the network makes of latents (T, H, W), for the cost of a sample.
    Batch.x is (b, M, C, T, H, W) as stored, pinned where the world's device is CUDA. Of a cache that also has
    its samples mirrored, a keyed draw takes half of them so. text: whether batches carry the text of a cache
    that holds some, padded to its longest.  captions: which of several are drawn.  feature_steps: the number
    of first steps whose batches carry the features of the caches, of the view that is drawn; None is all.
    stills: whether batches of clips carry their last pictures as stills, of that view likewise.
    """

    def __init__(
        self,
        caches: Sequence[Dataset],
        config: LoaderConfig,
        world: World,
        seed: int,
        micro_batch: int = 0,
        *,
        tokens: TokenCount = patches_of_two,
        text: bool = True,
        mix: Sequence[float] = (),
        captions: CaptionConfig = ANY_CAPTION,
        feature_steps: int | None = 0,
        stills: bool = False,
    ) -> None:
        for cache in caches:
            require_latents(cache)
        self.caches = tuple(caches)
        self.config, self.seed, self._pin = config, seed, world.device.type == "cuda"
        self._verify = config.verify == "samples"
        self._readers = [reader_of(cache, verify=self._verify) for cache in caches]
        self._texts = self._text_readers(captions) if text else [None] * len(caches)
        self._feature_steps = feature_steps
        self._features = [] if feature_steps == 0 else self._beside_readers(Beside.features)
        self._stills = self._beside_readers(Beside.stills) if stills else []
        self._lock = Lock()
        buckets = [s for number, d in enumerate(caches) for s in cache_buckets(d, number, tokens)]
        if len(caches) > 1:
            buckets = [replace(bucket, source=caches[bucket.dataset].place) for bucket in buckets]
        self.plan = StepPlan(
            buckets,
            config,
            rank=world.rank,
            ranks=world.size,
            seed=seed,
            micro_batch=micro_batch,
            mix=mix,
        )

    def load(self, step_index: int) -> list[Batch]:
        """Load the micro-batches of one step. Safe from several threads, one of which works at a time."""
        with self._lock:
            whole = self.plan.order_hash(step_index, self._ids)
            return [self._batch(step_index, rows, whole) for rows in self.plan.micro_batch_rows(step_index)]

    def largest(self) -> list[Batch]:
        """Return micro-batches that take as much memory as any; none if all are of one shape."""
        with self._lock:
            return [self._batch(0, rows) for rows in self.plan.largest()]

    def _text_readers(self, choice: CaptionConfig) -> list[TextReader | None]:
        """Return a reader for each cache that holds text; all pad to the longest caption of any."""
        manifests = [cache.manifest for cache in self.caches]
        longest = max((text_shape(m)[0] for m in manifests if has_text(m)), default=0)
        return [
            TextReader(d.folder, d.manifest, reader.parts, longest, verify=self._verify, choice=choice)
            if has_text(d.manifest)
            else None
            for d, reader in zip(self.caches, self._readers, strict=True)
        ]

    @property
    def has_flips(self) -> bool:
        """Whether samples are mirrored at random, which needs both views in the first cache."""
        return self._readers[0].has_flips

    def _beside_readers(self, kind: Callable[[DatasetManifest], Beside]) -> list[BesideReader]:
        """Return a reader of what lies beside each cache's latents."""
        return [
            BesideReader(d.folder, d.manifest, reader.parts, kind(d.manifest), verify=self._verify)
            for d, reader in zip(self.caches, self._readers, strict=True)
        ]

    def _ids(self, bucket: int, rows: np.ndarray) -> np.ndarray:
        number = self.plan.buckets[bucket].dataset
        return self._readers[number].entries(rows)["id"].astype(np.int64) + number * IDS

    def _batch(self, step_index: int, micro: MicroBatchRows, order_hash: int | None = None) -> Batch:
        bucket = self.plan.buckets[micro.bucket]
        number, rows = bucket.dataset, micro.rows
        reader = self._readers[number]
        entries = reader.entries(rows)
        ids = torch.from_numpy(entries["id"].astype(np.int64) + number * IDS)
        positions = torch.from_numpy(micro.positions)
        draws = Draws(self.seed, step_index, ids, positions)
        flipped = draw_flips(draws) if reader.has_flips else None
        x, features, stills = reader.gather(rows, flipped=flipped, pin=self._pin), None, None
        if self._stills:
            stills = self._stills[number].gather(rows, entries, flipped=flipped, pin=self._pin)
        if self._features and (self._feature_steps is None or step_index < self._feature_steps):
            features = self._features[number].gather(rows, entries, flipped=flipped, pin=self._pin)
        batch = Batch(
            x=x,
            id=ids,
            position=positions,
            weight=torch.from_numpy((entries["size"] > 0).astype(np.float32)),
            condition=self._condition(number, rows, entries, draws),
            bucket=bucket.name,
            source=bucket.source,
            order_hash=order_hash,
            features=features,
            stills=stills,
        )
        return replace(batch, tally=tally(step_index, batch))

    def _condition(self, number: int, rows: np.ndarray, entries: np.ndarray, draws: Draws) -> Condition:
        self.caches[number].manifest.require_labels(entries["label"], self.caches[number].folder)
        label = torch.from_numpy(entries["label"].astype(np.int64))
        reader = self._texts[number]
        if reader is None:
            return Condition(label=label)
        tokens, lengths = reader.gather(rows, entries["shard"], draws=draws, pin=self._pin)
        return Condition(label=label, text=tokens, text_length=lengths)


def draw_flips(draws: Draws) -> np.ndarray:
    """Draw which samples are mirrored left to right, half of them on average: (B,) bool."""
    return (draws.uniform("flip") < 0.5).numpy()


def cache_buckets(cache: Dataset, number: int, tokens: TokenCount) -> list[BucketSamples]:
    """Return the buckets of a latent cache, which is number `number` of several."""
    manifest = cache.manifest
    recorded = manifest.extra.get(BUCKET_COUNTS)  # spares reading the whole index, 300 MB for 10^7 samples
    shapes = [tuple(shape) for shape in manifest.buckets]
    buckets = latent_buckets(cache.index["bucket"], shard_starts(cache), shapes, tokens, recorded)
    return [replace(bucket, dataset=number) for bucket in buckets]


def latent_buckets(
    column: Column,
    starts: np.ndarray,
    shapes: Sequence[Shape],
    tokens: TokenCount,
    counts: Sequence[Sequence[int]] | None = None,
) -> list[BucketSamples]:
    """Return one bucket for each shape (M, C, T, H, W) of latents.

    column: (samples,) number of each sample's shape.  starts: the first row of every shard, and the number of
    rows.  counts: samples of each shape in every shard; None counts them.
    """
    found = np.array(counts) if counts else count_buckets(column, starts, len(shapes))
    buckets = []
    for number, (_, channels, frames, height, width) in enumerate(shapes):
        size = tokens((frames, height, width))
        name = f"latents {channels}x{frames}x{height}x{width}"
        buckets.append(
            BucketSamples(name, BucketRows(column, starts, number, found[:, number]), size, frames > 1)
        )
    return buckets
