"""From a raw dataset to a latent cache: one source shard becomes one part, published whole, with a receipt.

A batch of the encoder never holds samples of two shards, so a part is a function of its shard and the
settings alone: any process may encode any shard, and a killed job that continues ends with the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from core.errors import UserError, WorkError
from core.failpoints import failpoint
from core.files import TEMPORARY_PREFIX, sha256_file, write_json, write_text
from data.buckets import NO_BUCKET, Bucket, BucketConfig
from data.formats import MediaError, MediaLimits
from data.index import Dataset
from data.latents import LatentSums, compare
from data.loader import shard_starts
from data.media import to_tensor
from data.packs import LATENT_DTYPE, PACK_SAMPLES, Absent, Pack, Shape, index_rows, write_part
from data.pixels import read_pixels
from data.schema import (
    Quarantine,
    QuarantineEntry,
    ShardRecord,
)
from data.shards import RECEIPTS
from data.steps import read_ahead

MADE_FROM = "made_from.json"


class Encoder(Protocol):
    """What turns pixels into latents. busy_s: seconds spent in `encode` so far."""

    busy_s: float

    def encode(self, pixels: Tensor) -> Tensor:
        """(B, 3, T, H, W) in [-1, 1] -> (B, 2, C, T', H', W') on the CPU: mean and log-variance."""
        ...


@dataclass(frozen=True)
class Job:
    """All that shards have in common.

    column: (samples,) bucket of each sample.  shapes: of each bucket's latents, (M, C, T, H, W).
    """

    dataset: Dataset
    folder: Path
    encoder: Encoder
    buckets: Sequence[Bucket]
    shapes: Sequence[Shape]
    column: np.ndarray
    clips: BucketConfig
    limits: MediaLimits
    batch: int
    quarantine: Quarantine

    def receipt(self, shard: int) -> Path:
        """Where the receipt of a finished part lies."""
        return self.folder / RECEIPTS / f"{shard:06d}.json"

    def rows(self, shard: int) -> range:
        """The rows of one source shard."""
        starts = shard_starts(self.dataset)
        return range(int(starts[shard]), int(starts[shard + 1]))


def part_name(shard: int) -> str:
    """The file name of a part."""
    return f"latents-{shard:06d}.tar"


def begin(folder: Path, made_from: Mapping[str, Any]) -> None:
    """Note what this cache is made from, and remove what killed writers left.

    UserError if an earlier attempt began with another source or encoder.
    """
    note = folder / RECEIPTS / MADE_FROM
    if note.exists() and (differs := compare(json.loads(note.read_text()), made_from)) is not None:
        path, before, now = differs
        raise UserError(f"{folder}: begun with {path}={before}, now it is {now}; overwrite=true starts anew")
    for place in (folder, folder / RECEIPTS):
        for left in place.glob(f"{TEMPORARY_PREFIX}*"):
            left.unlink()
    write_json(note, made_from)


def encode_shard(job: Job, shard: int, advance: Callable[[int], None] = lambda n: None) -> None:
    """Write the part of one source shard, then its receipt; unusable samples go to the quarantine."""
    part = _Part(job, shard)
    path = job.folder / part_name(shard)
    places = write_part(path, shard, part.packs(advance))
    shapes = sorted(set(job.shapes))
    rows = index_rows(path, places, shard=shard, first=job.rows(shard).start, buckets=shapes)
    record = ShardRecord(
        name=path.name, samples=len(rows), bytes=path.stat().st_size, sha256=sha256_file(path)
    )
    content = {
        "record": asdict(record),
        "rows": {name: rows[name].tolist() for name in ("offset", "size", "bucket", "label")},
        "sums": asdict(part.sums) if part.sums else None,
        "refused": [asdict(entry) for entry in part.refused],
    }
    failpoint("encode.receipt")
    write_text(job.receipt(shard), json.dumps(content, sort_keys=True))


@dataclass
class _Part:
    """One part in the making."""

    job: Job
    shard: int
    sums: LatentSums | None = None
    absent: list[Absent] = field(default_factory=list)
    refused: list[QuarantineEntry] = field(default_factory=list)

    def packs(self, advance: Callable[[int], None]) -> Iterator[Pack]:
        """The packs of every bucket; the last one carries the absent samples."""
        rows = np.array(self.job.rows(self.shard))
        buckets = self.job.column[rows]
        for row in rows[buckets == NO_BUCKET].tolist():
            width, height, frames, _ = self.job.dataset.media[row].tolist()
            self._set_aside(row, "bucket", f"{width}x{height} with {frames} frames fits no bucket", ())
        last = Pack(np.zeros((0, *self.job.shapes[0]), LATENT_DTYPE), rows[:0], rows[:0])
        for bucket in range(len(self.job.buckets)):
            for pack in self._bucket_packs(rows[buckets == bucket], bucket, advance):
                if len(last.ids):
                    yield last
                last = pack
        yield Pack(last.latents, last.ids, last.labels, tuple(self.absent))

    def _bucket_packs(self, rows: np.ndarray, bucket: int, advance: Callable[[int], None]) -> Iterator[Pack]:
        """Encode the rows of one bucket, batch by batch, while the next batch is decoded."""
        batches = [rows[i : i + self.job.batch] for i in range(0, len(rows), self.job.batch)]
        waiting = [(np.zeros((0, *self.job.shapes[bucket]), LATENT_DTYPE), rows[:0])]
        for number, decoded in enumerate(
            read_ahead(lambda n: self._decode(batches[n], bucket), 0, 2, len(batches))
        ):
            failpoint("encode.batch")
            waiting.append(self._encode(batches[number], decoded, bucket))
            advance(len(batches[number]))
            latents, ids = (np.concatenate(list(parts)) for parts in zip(*waiting, strict=True))
            while len(ids) >= PACK_SAMPLES:
                yield self._pack(latents[:PACK_SAMPLES], ids[:PACK_SAMPLES])
                latents, ids = latents[PACK_SAMPLES:], ids[PACK_SAMPLES:]
            waiting = [(latents, ids)]
        if len(waiting[0][1]):
            yield self._pack(*waiting[0])

    def _decode(self, rows: np.ndarray, bucket: int) -> list[np.ndarray | MediaError]:
        """uint8 (T, H, W, 3) of every row, or why there is none."""
        return [self._read(row, bucket) for row in rows.tolist()]

    def _read(self, row: int, bucket: int) -> np.ndarray | MediaError:
        job = self.job
        try:
            return read_pixels(job.dataset, row, job.buckets[bucket], job.clips, job.limits)
        except MediaError as error:
            return error

    def _encode(
        self, rows: np.ndarray, decoded: list[np.ndarray | MediaError], bucket: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Latents (n, M, C, T, H, W) and ids (n,) of the rows that could be decoded and are finite."""
        shape = self.job.shapes[bucket]
        pixels = []
        for row, result in zip(rows.tolist(), decoded, strict=True):
            if isinstance(result, MediaError):
                self._set_aside(row, "decode", result, shape)
            else:
                pixels.append(result)
        ids = np.array(
            [r for r, d in zip(rows, decoded, strict=True) if not isinstance(d, MediaError)], np.int64
        )
        if not pixels:
            return np.zeros((0, *shape), LATENT_DTYPE), ids
        with torch.inference_mode():
            moments = self.job.encoder.encode(to_tensor(np.stack(pixels)))
        latents = moments[:, : shape[0]].to(torch.float16).numpy()
        if latents.shape[1:] != tuple(shape):
            raise WorkError(
                f"the encoder made latents {latents.shape[1:]} of {self.job.buckets[bucket]}, not {shape}"
            )
        finite = np.isfinite(latents).reshape(len(latents), -1).all(1)
        for row in ids[~finite].tolist():
            self._set_aside(row, "encode", "its latents are not finite in float16", shape)
        return latents[finite], ids[finite]

    def _pack(self, latents: np.ndarray, ids: np.ndarray) -> Pack:
        sums = LatentSums.of(latents)
        self.sums = sums if self.sums is None else self.sums + sums
        return Pack(np.ascontiguousarray(latents), ids, self.job.dataset.index["label"][ids].astype(np.int64))

    def _set_aside(self, row: int, stage: str, error: object, shape: Shape) -> None:
        self.absent.append(Absent(row, int(self.job.dataset.index["label"][row]), tuple(shape)))
        self.refused.append(self.job.quarantine.add(row, stage, error))
