"""Build index and manifest of a raw dataset from the rows noted while its tars were written or read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NotRequired, TypedDict

import numpy as np

from core.reading.json_scalars import I32, U8, U32, U64, Count
from data.dataset.manifest import DatasetManifest, content_fingerprint
from data.dataset.quarantine import QuarantineEntry
from data.dataset.schema import (
    COLOUR,
    FOUND,
    IMAGE_BUCKET,
    INDEX_DTYPE,
    MEDIA_DTYPE,
    MEDIA_RULES,
    RAW_BUCKETS,
    VIDEO_BUCKET,
)
from data.dataset.shared.shard_table import ShardRecord
from data.media.colour import ColourMode
from data.media.media_rules import RULES
from data.order.buckets import is_image

# Offset, size, label; width, height, frames, fps, rate and duration as fractions, fields.
Row = tuple[U64, U32, I32, U32, U32, U32, float, U32, U32, U64, U64, U8]


class Receipt(TypedDict):
    """The record that a finished shard leaves: rows as of `index_rows`, and the samples set aside."""

    record: ShardRecord
    rows: list[Row]
    texts: NotRequired[Count]
    captions: NotRequired[Count]
    found: NotRequired[dict[str, dict[str, Count]]]
    refused: list[QuarantineEntry]


def index_rows(shard: int, rows: Sequence[Sequence[Any]]) -> tuple[np.ndarray, np.ndarray]:
    """Build the rows of one shard, of INDEX_DTYPE (ids unset) and MEDIA_DTYPE.

    rows: (offset, size, label, and what `data.dataset.media_rows.media_row` gives) of each sample.
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
    found: Mapping[str, Mapping[str, int]],
    colour: ColourMode = "convert",
    captions: int = 0,
) -> DatasetManifest:
    """Build the manifest of a raw dataset. texts: samples that have a caption.

    found: how many samples say what of themselves, {property: {value: count}}.
    colour: what is done about colours wherever the dataset is read.
    captions: all of them, where some samples have several.
    """
    chosen: dict[str, Any] = {} if colour == "convert" else {COLOUR: colour}
    if captions > texts:
        chosen["captions"] = captions
    counts = {name: int((index["bucket"] == bucket).sum()) for bucket, name in enumerate(RAW_BUCKETS)}
    return DatasetManifest(
        kind="raw",
        fingerprint=content_fingerprint("raw", shards, files, classes=list(classes), **chosen),
        shards=shards,
        classes=tuple(classes),
        buckets=RAW_BUCKETS,
        files=files,
        extra={"counts": counts, "texts": texts, MEDIA_RULES: RULES, FOUND: sorted_counts(found), **chosen},
    )


def count_found(founds: Iterable[Mapping[str, str]]) -> dict[str, dict[str, int]]:
    """Count how often each property has each value, over what samples say of themselves."""
    counts: dict[str, Counter[str]] = {}
    for found in founds:
        for name, value in found.items():
            counts.setdefault(name, Counter())[value] += 1
    return sorted_counts(counts)


def add_counts(parts: Iterable[Mapping[str, Mapping[str, int]]]) -> dict[str, dict[str, int]]:
    """Sum several such counts."""
    total: dict[str, Counter[str]] = {}
    for part in parts:
        for name, counts in part.items():
            total.setdefault(name, Counter()).update(counts)
    return sorted_counts(total)


def sorted_counts(counts: Mapping[str, Mapping[str, int]]) -> dict[str, dict[str, int]]:
    """Return the same counts in an order that does not depend on how they were added up."""
    return {name: dict(sorted(counts[name].items())) for name in sorted(counts)}
