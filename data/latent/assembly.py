"""Assemble a latent cache: index, statistics and manifest from the receipts of its parts."""

from __future__ import annotations

import functools
import operator
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from core.errors import WorkError
from core.faults.failpoints import failpoint
from core.files import sha256_file
from core.progress import counted
from data.dataset.index import Dataset, shard_starts
from data.dataset.manifest import DatasetManifest, content_fingerprint
from data.dataset.media_rows import frame_rates
from data.dataset.quarantine import QuarantineEntry
from data.dataset.schema import (
    BUCKET_COUNTS,
    FEATURE_DTYPE,
    FLIP_DTYPE,
    INDEX,
    QUARANTINE,
    STILL_DTYPE,
    TEXT_DTYPE,
    crc_dtype,
    write_index,
)
from data.dataset.shared.shard_table import ShardRecord
from data.latent.caption_table import CaptionTable, captions_of
from data.latent.checksums import crcs_of
from data.latent.encode_job import Job, Receipt, part_name, read_receipt
from data.latent.pack_reading import scan_part
from data.latent.packs import Shape
from data.order.bucket_rows import count_buckets
from data.order.buckets import NO_BUCKET, BucketConfig


def assemble(job: Job, made_from: Mapping[str, Any]) -> None:
    """Make index, statistics, quarantine list and manifest from the receipts: the cache is complete.

    Two workers that do it at once write the same bytes. WorkError if no sample could be encoded, more were
    set aside than may be, or a part is not as long as it was written.
    """
    job.quarantine.require_within_budget()
    receipts = [read_receipt(job.receipt(shard)) for shard in range(len(job.dataset.manifest.shards))]
    _require_of(job, receipts)
    shards = tuple(receipt["record"] for receipt in receipts)
    for record in shards:
        _require_whole(job.folder, record)
    refused = [entry for receipt in receipts for entry in receipt["refused"]]
    statistics = _statistics(job, receipts, refused)
    index, buckets, flips, texts = _tables(job, receipts)
    captions = _captions(job, receipts, index)
    files = write_index(
        job.folder,
        index,
        flips=flips,
        texts=texts,
        crcs=_crcs(job, receipts, index),
        captions=captions.arrays() if captions else None,
        features=_features(job, receipts),
        stills=_stills(job, receipts),
    )
    classes = job.dataset.manifest.classes
    identity = content_fingerprint("latent", shards, files, classes=list(classes), made_from=made_from)
    job.quarantine.rewrite(refused)
    if refused:
        files[QUARANTINE] = sha256_file(job.folder / QUARANTINE)
    counts = count_buckets(index["bucket"], shard_starts(job.dataset), len(buckets))
    rates = rates_of_clips(job.dataset, index["bucket"], buckets, job.clips)
    manifest = DatasetManifest(
        kind="latent",
        fingerprint=identity,
        shards=shards,
        classes=classes,
        buckets=tuple(list(shape) for shape in buckets),
        files=files,
        extra={
            "made_from": dict(made_from),
            "statistics": statistics,
            BUCKET_COUNTS: counts.tolist(),
            **text_facts(texts, captions),
            **_cut(job, receipts),
            **_feature_facts(job, buckets),
            **({"frame_rates": rates} if rates else {}),
        },
    )
    failpoint("encode.manifest")
    manifest.write(job.folder)


def _statistics(job: Job, receipts: Sequence[Receipt], refused: Sequence[QuarantineEntry]) -> dict[str, Any]:
    """Compute mean and standard deviation over all parts; WorkError if none holds a sample."""
    sums = [receipt["sums"] for receipt in receipts if receipt["sums"]]
    if not sums:
        raise WorkError(
            f"none of {counted(len(job.dataset), 'sample')} could be encoded; the first: {refused[0].error}"
        )
    return functools.reduce(operator.add, sums).statistics()


def _tables(
    job: Job, receipts: Sequence[Receipt]
) -> tuple[np.ndarray, list[Shape], np.ndarray | None, np.ndarray | None]:
    """Return index, table of shapes, and rows of `flip.npy` and `text.npy` (None for what is not stored)."""
    index = np.array(job.dataset.index)
    for name in ("offset", "size", "bucket", "label"):
        columns = [np.array(receipt["rows"][name], index.dtype[name]) for receipt in receipts]
        index[name] = np.concatenate(columns)
    index["bucket"], buckets = used_buckets(index["bucket"], sorted(set(job.shapes)))
    flips = texts = None
    if job.flip:
        flips = np.concatenate([receipt["flips"] for receipt in receipts]).astype(FLIP_DTYPE)
    if job.captions:
        texts = np.array([tuple(row) for receipt in receipts for row in receipt["texts"]], TEXT_DTYPE)
    return index, buckets, flips, texts


def _features(job: Job, receipts: Sequence[Receipt]) -> np.ndarray | None:
    """Return the rows of `features.npy`, None where none are stored."""
    if job.pictures is None:
        return None
    return np.concatenate([receipt.get("features", []) for receipt in receipts]).astype(FEATURE_DTYPE)


def _stills(job: Job, receipts: Sequence[Receipt]) -> np.ndarray | None:
    """Return the rows of `still.npy`, None where none are stored."""
    if not job.stills:
        return None
    return np.concatenate([receipt.get("stills", []) for receipt in receipts]).astype(STILL_DTYPE)


def _feature_facts(job: Job, buckets: Sequence[Shape]) -> dict[str, Any]:
    """Return what the manifest says of features: their shape by that of latents."""
    if job.pictures is None:
        return {}
    known = dict(zip(map(tuple, job.shapes), job.feature_shapes, strict=True))
    return {"features": {"shapes": [list(known[tuple(shape)]) for shape in buckets]}}


def _captions(job: Job, receipts: Sequence[Receipt], index: np.ndarray) -> CaptionTable | None:
    """Return all captions of a cache in which some sample has several, or names; None for any other."""
    tables = [receipt.get("captions") for receipt in receipts]
    if not any(tables):
        return None
    found = []
    for shard, table in enumerate(tables):
        if table is None:
            path, rows = job.folder / part_name(shard), job.rows(shard)
            found.append(captions_of(path, scan_part(path), index[rows.start : rows.stop]))
        else:
            found.append(CaptionTable.from_json(table))
    return CaptionTable.joined(found)


def _cut(job: Job, receipts: Sequence[Receipt]) -> dict[str, Any]:
    """Return what the manifest says of captions that were cut; {} where they were not counted."""
    counts = [receipt.get("cut") for receipt in receipts]
    if job.captions is None or not all(counts):
        return {}
    total = functools.reduce(operator.add, (count for count in counts if count))
    return {"cut_captions": {"limit": job.captions.tokens, **asdict(total)}}


def _require_of(job: Job, receipts: Sequence[Receipt]) -> None:
    """Raise WorkError naming the first receipt that is not of the part of this source that its name says."""
    channels = job.shapes[0][1]
    known = {*range(len(set(job.shapes))), NO_BUCKET}
    for shard, receipt in enumerate(receipts):
        sums, columns = receipt["sums"], receipt["rows"]
        if receipt["record"].name != part_name(shard) or receipt["record"].samples != len(job.rows(shard)):
            expected = f"{part_name(shard)} with {counted(len(job.rows(shard)), 'sample')}"
            raise WorkError(f"{job.receipt(shard)}: not of {expected}")
        if (sums and len(sums.total) != channels) or not known.issuperset(columns["bucket"]):
            raise WorkError(f"{job.receipt(shard)}: of other latents than this job makes")
        if job.flip and len(receipt["flips"]) != len(columns["offset"]):
            raise WorkError(f"{job.receipt(shard)}: without the rows of mirrored views")
        if job.captions and len(receipt["texts"]) != len(columns["offset"]):
            raise WorkError(f"{job.receipt(shard)}: without the rows of text")
        if job.pictures and len(receipt.get("features", ())) != len(columns["offset"]):
            raise WorkError(f"{job.receipt(shard)}: without the rows of features")
        if job.stills and len(receipt.get("stills", ())) != len(columns["offset"]):
            raise WorkError(f"{job.receipt(shard)}: without the rows of stills")
        sizes = np.array(columns["offset"], np.float64) + np.array(columns["size"], np.float64)
        if (sizes > receipt["record"].bytes).any():
            raise WorkError(f"{job.receipt(shard)}: its rows point outside of the part")


def _crcs(job: Job, receipts: Sequence[Receipt], index: np.ndarray) -> np.ndarray:
    """Return the rows of `crc.npy`; those of a part that an earlier version encoded are computed now."""
    views, found = job.views, []
    columns = crc_dtype([INDEX, *views])
    count = len(columns.names or ())
    for shard, receipt in enumerate(receipts):
        if "crcs" not in receipt:
            path, rows = job.folder / part_name(shard), job.rows(shard)
            found.append(crcs_of(path, scan_part(path), index[rows.start : rows.stop], views))
        elif {len(row) for row in receipt["crcs"]} - {count}:
            raise WorkError(f"{job.receipt(shard)}: its CRC-32 are not those of {count} views")
        else:
            found.append(np.array([tuple(row) for row in receipt["crcs"]], columns))
    return np.concatenate(found)


def _require_whole(folder: Path, record: ShardRecord) -> None:
    path = folder / record.name
    size = path.stat().st_size if path.exists() else "no"
    if size != record.bytes:
        raise WorkError(
            f"{path}: has {size} bytes, not {record.bytes} as written; action=repair makes it anew"
        )


def rates_of_clips(
    raw: Dataset, column: np.ndarray, shapes: Sequence[Shape], clips: BucketConfig
) -> list[list[float]]:
    """Return [frames a second, samples] of the clips of a raw dataset, the most frequent first; [] for none.

    column: (samples,) bucket of each one's latents, whose shapes are `shapes`.
    """
    frames = np.zeros(NO_BUCKET + 1, np.int64)
    frames[: len(shapes)] = [shape[1] for shape in shapes]
    if not (frames > 1).any():
        return []
    return frame_rates(np.asarray(raw.media), frames[column] > 1, clips.fps, clips.stride)


def used_buckets(column: np.ndarray, shapes: list[Shape]) -> tuple[np.ndarray, list[Shape]]:
    """Renumber the shapes that samples have, in ascending order, as an index rebuilt from the tars does."""
    used = [int(bucket) for bucket in np.unique(column) if bucket != NO_BUCKET]
    numbers = np.full(NO_BUCKET + 1, NO_BUCKET, column.dtype)
    numbers[used] = np.arange(len(used))
    return numbers[column], [shapes[bucket] for bucket in used]


def text_facts(texts: np.ndarray | None, captions: CaptionTable | None = None) -> dict[str, Any]:
    """Return what the manifest says of a cache's text: tokens of the longest, several captions."""
    if texts is None:
        return {}
    if captions is None:
        return {"longest_text": int(texts["tokens"].max(initial=0))}
    longest = int(captions.rows["tokens"].max(initial=0))
    return {"longest_text": longest, "captions": captions.describe()}
