"""Index and manifest of a raw dataset, from the rows that were noted while its tars were written or read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from data.dataset.schema import (
    IMAGE_BUCKET,
    INDEX_DTYPE,
    MEDIA_DTYPE,
    RAW_BUCKETS,
    VIDEO_BUCKET,
    DatasetManifest,
    ShardRecord,
    content_fingerprint,
)
from data.order.buckets import is_image


def index_rows(shard: int, rows: Sequence[Sequence[Any]]) -> tuple[np.ndarray, np.ndarray]:
    """INDEX_DTYPE (ids unset) and MEDIA_DTYPE rows of one shard.

    rows: (offset, size, label, width, height, frames, fps) of each sample.
    """
    index, facts = np.zeros(len(rows), INDEX_DTYPE), np.zeros(len(rows), MEDIA_DTYPE)
    columns = list(zip(*rows, strict=True))
    index["shard"] = shard
    for name, column in zip(("offset", "size", "label"), columns[:3], strict=True):
        index[name] = column
    for name, column in zip(MEDIA_DTYPE.names or (), columns[3:], strict=True):
        facts[name] = column
    index["bucket"] = np.where(is_image(facts), IMAGE_BUCKET, VIDEO_BUCKET)
    return index, facts


def raw_manifest(
    shards: tuple[ShardRecord, ...],
    classes: Sequence[str],
    files: dict[str, str],
    index: np.ndarray,
    texts: int,
    captions: int = 0,
) -> DatasetManifest:
    """The manifest of a raw dataset. texts: samples that have a caption.

    captions: all of them, where some samples have several.
    """
    counts = {name: int((index["bucket"] == bucket).sum()) for bucket, name in enumerate(RAW_BUCKETS)}
    return DatasetManifest(
        kind="raw",
        fingerprint=content_fingerprint("raw", shards, files, classes=list(classes)),
        shards=shards,
        classes=tuple(classes),
        buckets=RAW_BUCKETS,
        files=files,
        extra={"counts": counts, "texts": texts, **({"captions": captions} if captions > texts else {})},
    )
