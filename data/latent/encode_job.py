"""The job of encoding a cache: what each shard needs, and what all workers agree on before they begin."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NotRequired, Protocol, TypedDict

import numpy as np
from torch import Tensor

from core.errors import UserError
from core.files import published, write_json_once
from core.progress import counted
from core.reading import json_files
from core.reading.json_files import Malformed
from core.reading.json_scalars import I32, U16, U32, U64
from core.run.ways_out import holds, ways_out
from data.dataset.index import Dataset, shard_starts
from data.dataset.manifest import DatasetManifest
from data.dataset.quarantine import Quarantine, QuarantineEntry
from data.dataset.schema import FEATURES, FLIP, MADE_FROM, MANIFEST, STILLS, TEXT
from data.dataset.shared.shard_table import ShardRecord
from data.latent.beside.views import FeatureEncoder
from data.latent.caption_table import CaptionLists
from data.latent.normalising import LatentSums
from data.latent.packs import LATENT_DTYPE, Shape
from data.latent.reading import compare
from data.latent.texts import CaptionEncoder, CutCaptions
from data.media.formats import MediaLimits
from data.order.buckets import Bucket, BucketConfig
from data.raw.unfinished import RECEIPTS

RECEIPT = "[0-9]" * 6 + ".json"  # pattern of the names of receipts


class _Columns(TypedDict):
    """Rows of the index of a part, by column."""

    offset: list[U64]
    size: list[U32]
    bucket: list[U16]
    label: list[I32]


class Receipt(TypedDict):
    """The record that a finished part leaves: its rows of the tables, its sums, and the samples set aside."""

    record: ShardRecord
    rows: _Columns
    flips: list[U64]
    texts: list[tuple[U64, U16]]
    crcs: NotRequired[list[list[U32]]]
    captions: NotRequired[CaptionLists | None]
    cut: NotRequired[CutCaptions | None]
    features: NotRequired[list[U64]]
    stills: NotRequired[list[U64]]
    sums: LatentSums | None
    refused: list[QuarantineEntry]


def read_receipt(path: Path) -> Receipt:
    """Read the receipt of a part; WorkError where it is damaged."""
    receipt = json_files.read_sealed(path, Receipt)
    samples, columns = receipt["record"].samples, receipt["rows"]
    lengths = {len(columns["offset"]), len(columns["size"]), len(columns["bucket"]), len(columns["label"])}
    lengths |= {
        len(rows)
        for rows in (
            receipt["flips"],
            receipt["texts"],
            receipt.get("crcs"),
            receipt.get("features"),
            receipt.get("stills"),
        )
        if rows
    }
    if (captions := receipt.get("captions")) is not None:
        lengths.add(len(captions["counts"]))
        names = len(captions["names"])
        if sum(captions["counts"]) != len(captions["rows"]) or any(
            row[2] >= names for row in captions["rows"]
        ):
            raise Malformed(f"{path}: its captions do not agree in number")
    if lengths != {samples}:
        raise Malformed(f"{path}: its rows are not those of {counted(samples, 'sample')}")
    return receipt


class Encoder(Protocol):
    """Turns pixels into latents. busy_s: seconds spent in `encode` so far."""

    @property
    def busy_s(self) -> float: ...

    def encode(self, pixels: Tensor) -> Tensor:
        """Encode (B, 3, T, H, W) uint8 to mean (and log-variance) (B, M, C, T', H', W') on the CPU."""
        ...


@dataclass(frozen=True)
class Job:
    """The state that all shards share.

    column: (samples,) bucket of each sample.  shapes: of each bucket's latents, (M, C, T, H, W).
    flip: whether every sample is also encoded mirrored left to right.  decode_threads: that decode while the
    encoder works.  captions: what embeds the samples' text; None stores none.
    dtype: number format of the stored latents.  pictures: what makes features of the pictures, of each bucket
    (F, h, w, E); None stores none.  stills: whether the last pictures of clips are also encoded as stills.
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
    flip: bool = False
    decode_threads: int = 1
    captions: CaptionEncoder | None = None
    dtype: np.dtype = LATENT_DTYPE
    pictures: FeatureEncoder | None = None
    feature_shapes: Sequence[Shape] = ()
    stills: bool = False

    @property
    def views(self) -> list[str]:
        """The files of what is stored of a sample beside its latents."""
        kept = (
            (FLIP, self.flip),
            (TEXT, self.captions),
            (FEATURES, self.pictures),
            (STILLS, self.stills),
        )
        return [name for name, is_kept in kept if is_kept]

    def receipt(self, shard: int) -> Path:
        """Return the path of the receipt of a finished part."""
        return self.folder / RECEIPTS / f"{shard:06d}.json"

    def is_finished(self, shard: int) -> bool:
        """Return whether the part of one shard is finished."""
        return self.receipt(shard).exists() or (self.folder / MANIFEST).exists()

    def finished(self) -> set[int]:
        """Return the shards whose parts are finished; all of them once the cache is complete."""
        found = {int(path.stem) for path in published(self.folder / RECEIPTS, RECEIPT)}
        # The receipts go once the manifest is there, maybe while they were listed.
        return set(range(len(self.dataset.manifest.shards))) if (self.folder / MANIFEST).exists() else found

    def rows(self, shard: int) -> range:
        """Return the rows of one source shard."""
        return range(int(self._starts[shard]), int(self._starts[shard + 1]))

    @cached_property
    def _starts(self) -> np.ndarray:
        return shard_starts(self.dataset)


def part_name(shard: int) -> str:
    """Return the file name of a part."""
    return f"latents-{shard:06d}.tar"


def encoded(job: Job) -> str:
    """Say what overwriting the cache would cost; "" where no shard is encoded yet."""
    done, total = len(job.finished()), len(job.dataset.manifest.shards)
    return f"{done} of {counted(total, 'encoded shard')}, {holds(job.folder)}" if done else ""


def recorded_origin(folder: Path) -> dict[str, Any] | None:
    """Return what a cache, finished or not, records as its source; None if it was never begun."""
    record: dict[str, Any] | None = None
    if (folder / MANIFEST).exists():
        record = DatasetManifest.read(folder).extra.get("made_from")
    else:
        with contextlib.suppress(FileNotFoundError):
            record = json_files.read(folder / RECEIPTS / MADE_FROM, dict[str, Any])
    return record


def begin(job: Job, made_from: Mapping[str, Any]) -> None:
    """Record what this cache is made from; of workers that begin at once, the first one's record stays.

    UserError if an earlier attempt, or another worker, began with another source or encoder.
    """
    folder = job.folder
    note = folder / RECEIPTS / MADE_FROM
    if not note.exists():
        write_json_once(note, made_from)
    if (differs := compare(json_files.read(note, dict[str, Any]), made_from)) is not None:
        path, before, now = differs
        ways = ways_out(encoded(job), "the old content")
        raise UserError(f"{folder}: begun with {path}={before}, now it is {now}; {ways}")
