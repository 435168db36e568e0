"""Rebuild index and manifest of latents from their tars: packs that `encode` wrote, or foreign arrays.

making: the folder that receives the new files.
"""

from __future__ import annotations

import functools
import itertools
import operator
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from core.errors import UserError, WorkError
from core.files import sha256_file
from data.dataset.manifest import DatasetManifest, content_fingerprint
from data.dataset.quarantine import Quarantine
from data.dataset.schema import BUCKET_COUNTS, CRC, QUARANTINE, write_index
from data.dataset.shared.shard_table import ShardRecord
from data.latent.checksums import range_crcs
from data.latent.normalising import LatentSums
from data.latent.pack_reading import read_part
from data.latent.packs import Shape
from data.order.bucket_rows import count_buckets
from data.raw.annotations.labels import known_names
from data.reindexing.foreign import origin, read_foreign
from data.reindexing.from_parts import index_from_parts, sidecars_from_parts

Advance = Callable[[], None]


def foreign_manifest(
    folder: Path,
    making: Path,
    paths: list[Path],
    before: DatasetManifest | None,
    made_from: Mapping[str, Any] | None,
    budget: float,
    advance: Advance,
) -> DatasetManifest:
    """Build the manifest of foreign latents as for a cache that `encode` made.

    The list of samples set aside is new too.
    """
    found, quarantine = read_foreign(paths, advance), making / QUARANTINE
    making.mkdir(exist_ok=True)
    refused = Quarantine(quarantine, total=len(found.items), budget=budget)
    refused.rewrite(found.refused)
    refused.check()
    if (folder / QUARANTINE).exists():
        quarantine.touch()  # an empty list in place of one that no longer holds
    index, shapes, classes = found.index()
    records = [ShardRecord.of(path, count) for path, count in zip(paths, found.counts, strict=True)]
    classes = known_names(classes, before.classes if before else ())
    extra = {
        "made_from": origin(made_from, before.extra["made_from"] if before else None),
        "statistics": found.statistics(),
    }
    starts = np.cumsum([0, *found.counts]).tolist()
    rows = [index[start:stop] for start, stop in itertools.pairwise(starts)]
    crcs = np.concatenate([range_crcs(path, here) for path, here in zip(paths, rows, strict=True)])
    files = write_index(making, index, crcs=crcs)
    return _cache_manifest(records, index, shapes, classes, files, quarantine, extra)


def latent_manifest(
    folder: Path, making: Path, paths: list[Path], before: DatasetManifest, advance: Advance
) -> DatasetManifest:
    """Build index, table of shapes and statistics from the parts; every value of them is read."""
    names = {path.name for path in paths}
    if lost := sorted({shard.name for shard in before.shards} - names):
        raise WorkError(f"{folder / lost[0]}: missing; its samples stand in no other part")
    sums: list[LatentSums] = []  # one a part, added in the order of `encode`: sums of floats depend on it
    records = []
    for path in paths:
        count, of_packs = 0, []
        for pack in read_part(path):
            count += len(pack.ids) + len(pack.absent)
            of_packs += [LatentSums.of(pack.latents)] if len(pack.ids) else []
        sums += [functools.reduce(operator.add, of_packs)] if of_packs else []
        records.append(ShardRecord.of(path, count))
        advance()
    if not sums:
        raise UserError(f"{folder}: its parts hold no latents")
    statistics = functools.reduce(operator.add, sums).statistics()
    index, shapes = index_from_parts(folder, records)
    sidecars, text = sidecars_from_parts(folder, records, index, before.extra["made_from"])
    if before.blocks and CRC not in before.files:
        sidecars["crcs"] = None  # a cache of this version that was written without; earlier ones get it
    files = write_index(making, index, **sidecars)
    extra = {**before.extra, "statistics": statistics, **text}
    return _cache_manifest(records, index, shapes, before.classes, files, folder / QUARANTINE, extra)


def _cache_manifest(
    records: Sequence[ShardRecord],
    index: np.ndarray,
    shapes: Sequence[Shape],
    classes: tuple[str, ...],
    files: Mapping[str, str],
    quarantine: Path,
    extra: Mapping[str, Any],
) -> DatasetManifest:
    """Build the manifest of a latent cache with this index.

    quarantine: its list of samples set aside, if any.
    """
    starts = np.cumsum([0, *(record.samples for record in records)])
    counts = count_buckets(index["bucket"], starts, len(shapes)).tolist()
    identity = content_fingerprint(
        "latent", records, files, classes=list(classes), made_from=extra["made_from"]
    )
    listed = {QUARANTINE: sha256_file(quarantine)} if quarantine.exists() else {}
    return DatasetManifest(
        kind="latent",
        fingerprint=identity,
        shards=tuple(records),
        classes=classes,
        buckets=tuple(list(shape) for shape in shapes),
        files={**files, **listed},
        extra={**extra, BUCKET_COUNTS: counts},
    )
