"""Encode a raw dataset: one source shard becomes the packs of one part.

A batch of the encoder never holds samples of two shards, so a part is a function of its shard and the
settings alone: any process may encode any shard, and a killed job that continues ends with the same bytes.
A sample that cannot be read, decoded or encoded keeps its row, without latents, and goes to the quarantine.
"""

from __future__ import annotations

import contextlib
import itertools
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from core.errors import WorkError
from core.faults.failpoints import failpoint
from core.progress import counted
from data.dataset.faults import Fault, attempt, keep_traceback
from data.dataset.quarantine import QuarantineEntry
from data.latent.beside.views import Views, features_of, standing_still
from data.latent.encode_job import Job
from data.latent.normalising import LatentSums
from data.latent.packs import (
    LATENT_DTYPE,
    PACK_SAMPLES,
    Absent,
    Pack,
    Shape,
    still_shape,
)
from data.latent.reading import TORCH_DTYPES
from data.latent.texts import CutCaptions, ShardTexts
from data.media.images import as_tensor
from data.order.buckets import NO_BUCKET
from data.raw.decoding import read_pixels

BATCHES_AHEAD = 2
Decoded = np.ndarray | Fault


@dataclass(frozen=True)
class _Batch:
    """The samples that the encoder takes at once: rows (n,) of one bucket."""

    bucket: int
    rows: np.ndarray


def decode_ahead(job: Job, batches: Sequence[_Batch]) -> Generator[list[Decoded], None, None]:
    """Yield each batch's samples, uint8 (T, H, W, 3), or the reason why there is none.

    Threads decode ahead.
    """
    upcoming = iter(batches)
    waiting: deque[list[Future[Decoded]]] = deque()
    pool = ThreadPoolExecutor(job.decode_threads, thread_name_prefix="decode")

    def submit(count: int) -> None:
        for batch in itertools.islice(upcoming, count):
            waiting.append([pool.submit(_read, job, row, batch.bucket) for row in batch.rows.tolist()])

    try:
        submit(1 + BATCHES_AHEAD)
        while waiting:
            yield [future.result() for future in waiting.popleft()]
            submit(1)
    finally:
        pool.shutdown(cancel_futures=True)


def _read(job: Job, row: int, bucket: int) -> Decoded:
    return attempt(
        lambda: read_pixels(job.dataset, row, job.buckets[bucket], job.clips, job.limits),
        "decode",
        f"sample {row}",
    )


@dataclass
class Part:
    """One part that is being encoded."""

    job: Job
    shard: int
    sums: LatentSums | None = None
    absent: list[Absent] = field(default_factory=list)
    refused: list[QuarantineEntry] = field(default_factory=list)

    def __post_init__(self) -> None:
        job = self.job
        self._texts = ShardTexts(job.dataset, job.captions, job.batch) if job.captions else None

    @property
    def cut(self) -> CutCaptions:
        """The captions so far, and those that were cut."""
        return self._texts.cut if self._texts is not None else CutCaptions()

    def packs(self, advance: Callable[[int], None]) -> Iterator[Pack]:
        """Yield the packs of every bucket; the last one carries the absent samples."""
        rows = np.array(self.job.rows(self.shard))
        buckets = self.job.column[rows]
        for row in rows[buckets == NO_BUCKET].tolist():
            width, height, frames = self.job.dataset.media[row].tolist()[:3]
            reason = f"{width}x{height} with {counted(frames, 'frame')} fits no bucket"
            self._set_aside(row, Fault("bucket", reason), ())
        last = Pack(np.zeros((0, *self.job.shapes[0]), self.job.dtype), rows[:0], rows[:0])
        batches = [
            _Batch(bucket, here[start : start + self.job.batch])
            for bucket in range(len(self.job.buckets))
            for here in [rows[buckets == bucket]]
            for start in range(0, len(here), self.job.batch)
        ]
        with contextlib.closing(decode_ahead(self.job, batches)) as decoded:
            pairs = zip(batches, decoded, strict=True)
            for bucket, group in itertools.groupby(pairs, key=lambda pair: pair[0].bucket):
                for pack in self._bucket_packs(bucket, group, advance):
                    if len(last.ids):
                        yield last
                    last = pack
        yield replace(last, absent=tuple(self.absent))

    def _bucket_packs(
        self,
        bucket: int,
        batches: Iterator[tuple[_Batch, list[Decoded]]],
        advance: Callable[[int], None],
    ) -> Iterator[Pack]:
        """Encode the batches of one bucket, and cut the results into packs."""
        held = self._nothing(bucket)
        for batch, decoded in batches:
            failpoint("encode.batch")
            held += self._encode(batch, decoded)
            while len(held) >= PACK_SAMPLES:
                yield self._pack(held.of(slice(PACK_SAMPLES)))
                held = held.of(slice(PACK_SAMPLES, None))
            advance(len(batch.rows))
        if len(held):
            yield self._pack(held)

    def _encode(self, batch: _Batch, decoded: list[Decoded]) -> Views:
        """Encode the rows that decoded; those that are not finite are set aside."""
        shape, ids, pixels = self.job.shapes[batch.bucket], [], []
        for row, result in zip(batch.rows.tolist(), decoded, strict=True):
            if isinstance(result, Fault):
                self._set_aside(row, result, shape)
            else:
                ids.append(row)
                pixels.append(result)
        if not pixels:
            return self._nothing(batch.bucket)
        x = as_tensor(np.stack(pixels))
        views, features, stills = [x, x.flip(-1)] if self.job.flip else [x], None, None
        if self.job.pictures is not None:
            features = features_of(self.job.pictures, views, self.job.feature_shapes[batch.bucket])
        latents = np.stack([self._moments(view, shape) for view in views])
        if self._has_stills(shape):
            found = [self._moments(standing_still(view), shape)[:, :1, :, -1:] for view in views]
            stills = np.stack(found, 1)
        encoded = Views(np.array(ids, np.int64), latents, features, stills)
        faults = encoded.faults()
        for place, fault in faults.items():
            self._set_aside(ids[place], fault, shape)
        return encoded.of(~np.isin(np.arange(len(ids)), list(faults)))

    def _moments(self, pixels: Tensor, shape: Shape) -> np.ndarray:
        """Encode pixels (n, 3, T, H, W) uint8 into (n, M, C, T, H, W), as they are stored."""
        with torch.inference_mode():
            moments = self.job.encoder.encode(pixels)
        dtype = TORCH_DTYPES[self.job.dtype.itemsize]
        latents: np.ndarray = moments[:, : shape[0]].to(dtype).numpy()
        if latents.shape[1:] != tuple(shape):
            frames, height, width = pixels.shape[2:]
            raise WorkError(
                f"the encoder made latents {latents.shape[1:]} of {frames}x{height}x{width}, not {shape}"
            )
        return latents

    def _nothing(self, bucket: int) -> Views:
        job, count = self.job, 1 + self.job.flip
        features = None
        if job.pictures is not None:
            features = np.zeros((0, count, *job.feature_shapes[bucket]), LATENT_DTYPE)
        shape, stills = job.shapes[bucket], None
        if self._has_stills(shape):
            stills = np.zeros((0, count, *still_shape(shape)), job.dtype)
        return Views(np.zeros(0, np.int64), np.zeros((count, 0, *shape), job.dtype), features, stills)

    def _has_stills(self, shape: Shape) -> bool:
        """Return whether stills are stored of latents (M, C, T, H, W): those that can end with a picture."""
        return self.job.stills and shape[2] > 1

    def _pack(self, views: Views) -> Pack:
        text = None
        if self._texts is not None:
            text, refused = self._texts.pack(views.ids.tolist())
            for row, fault in refused.items():
                self._set_aside(row, fault, tuple(views.latents.shape[2:]))
            views = views.of(~np.isin(views.ids, list(refused)))
        ids = views.ids
        latents, *flips = (np.ascontiguousarray(view) for view in views.latents)
        if len(ids):
            sums = LatentSums.of(latents)
            self.sums = sums if self.sums is None else self.sums + sums
        labels = self.job.dataset.index["label"][ids].astype(np.int64)
        mirrored = flips[0] if flips else None
        pack = Pack(latents, ids, labels, flips=mirrored, text=text)
        return replace(pack, features=views.features, stills=views.stills)

    def _set_aside(self, row: int, fault: Fault, shape: Shape) -> None:
        keep_traceback(self.job.folder, row, fault)
        self.absent.append(Absent(row, int(self.job.dataset.index["label"][row]), tuple(shape)))
        self.refused.append(self.job.quarantine.add(row, fault.stage, fault.error))
