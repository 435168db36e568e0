"""A latent cache made whole: index, statistics and manifest from the receipts of its parts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from core.errors import WorkError
from core.failpoints import failpoint
from core.files import sha256_file
from data.buckets import NO_BUCKET
from data.encoding import Job
from data.latents import LatentSums
from data.loader import shard_starts
from data.order import count_buckets
from data.packs import Shape, index_rows, scan_part
from data.schema import (
    QUARANTINE,
    DatasetManifest,
    QuarantineEntry,
    ShardRecord,
    content_fingerprint,
    write_index,
)
from data.shards import drop_receipts


def assemble(job: Job, made_from: Mapping[str, Any]) -> DatasetManifest:
    """Make index, statistics, quarantine list and manifest from the receipts: the cache is complete.

    WorkError if no sample could be encoded.
    """
    receipts = [json.loads(job.receipt(s).read_text()) for s in range(len(job.dataset.manifest.shards))]
    refused = [QuarantineEntry(**entry) for receipt in receipts for entry in receipt["refused"]]
    sums = [LatentSums(**receipt["sums"]) for receipt in receipts if receipt["sums"]]
    if not sums:
        raise WorkError(
            f"none of the {len(job.dataset)} samples could be encoded; the first: {refused[0].error}"
        )
    total = sums[0]
    for more in sums[1:]:
        total = total + more
    index = np.array(job.dataset.index)
    for name in ("offset", "size", "bucket", "label"):
        index[name] = np.concatenate([receipt["rows"][name] for receipt in receipts])
    shards = tuple(ShardRecord(**receipt["record"]) for receipt in receipts)
    index["bucket"], buckets = used_buckets(index["bucket"], sorted(set(job.shapes)))
    files = write_index(job.folder, index)
    extra = {
        "made_from": dict(made_from),
        "statistics": total.statistics(),
        "bucket_counts": count_buckets(index["bucket"], shard_starts(job.dataset), len(buckets)).tolist(),
    }
    classes = job.dataset.manifest.classes
    identity = content_fingerprint("latent", shards, files, classes=list(classes), made_from=made_from)
    job.quarantine.rewrite(refused)
    if refused:
        files[QUARANTINE] = sha256_file(job.folder / QUARANTINE)
    manifest = DatasetManifest(
        kind="latent",
        fingerprint=identity,
        shards=shards,
        classes=classes,
        buckets=tuple(list(shape) for shape in buckets),
        files=files,
        extra=extra,
    )
    failpoint("encode.manifest")
    manifest.write(job.folder)
    drop_receipts(job.folder)
    return manifest


def used_buckets(column: np.ndarray, shapes: list[Shape]) -> tuple[np.ndarray, list[Shape]]:
    """Number the shapes that samples have anew, in ascending order, as an index made from the tars does."""
    used = [int(bucket) for bucket in np.unique(column) if bucket != NO_BUCKET]
    numbers = np.full(NO_BUCKET + 1, NO_BUCKET, column.dtype)
    numbers[used] = np.arange(len(used))
    return numbers[column], [shapes[bucket] for bucket in used]


def index_from_parts(folder: Path, shards: Sequence[ShardRecord]) -> tuple[np.ndarray, list[Shape]]:
    """The index of a cache and its table of shapes from the tars alone, equal to those made while writing.

    WorkError for a part that is damaged, or does not hold the rows that follow those of the part before.
    """
    places = [scan_part(folder / shard.name) for shard in shards]
    every = [place for part in places for place in part]
    shapes = {place.shape for place in every if len(place.ids)}
    shapes |= {sample.shape for place in every for sample in place.absent if sample.shape}
    table = sorted(shapes)
    rows, first = [], 0
    for number, (shard, part) in enumerate(zip(shards, places, strict=True)):
        rows.append(index_rows(folder / shard.name, part, shard=number, first=first, buckets=table))
        first += len(rows[-1])
    return np.concatenate(rows), table
