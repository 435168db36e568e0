"""Small latent caches for tests."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from core.files import sha256_file
from data.dataset.manifest import DatasetManifest
from data.dataset.schema import write_index
from data.dataset.shared.shard_table import ShardRecord
from data.latent.normalising import LatentSums
from data.latent.pack_rows import index_rows
from data.latent.packs import LATENT_DTYPE, Absent, Pack, Shape, write_part
from data.order.bucket_rows import count_buckets

IMAGE, CLIP = (2, 3, 1, 4, 4), (2, 3, 3, 4, 4)


@dataclass
class Cache:
    """The part of a dataset that loaders need, held in memory."""

    folder: Path
    manifest: DatasetManifest
    index: np.ndarray

    @property
    def place(self) -> str:
        return str(self.folder)

    def open_shard(self, shard: int) -> IO[bytes]:
        return open(self.folder / self.manifest.shards[shard].name, "rb")


def latents_of(row: int, shape: Shape) -> np.ndarray:
    """Return the latent that `make_cache` stores for a row."""
    return np.random.default_rng(row).standard_normal(shape).astype(LATENT_DTYPE)


def packs_of(first: int, shapes: list[Shape], absent: Iterable[int] = (), size: int = 4) -> list[Pack]:
    """Return packs for rows first, first + 1, ... of the given shapes, labelled row % 10."""
    gone = [Absent(row, row % 10, shapes[row - first]) for row in absent]
    packs = []
    for shape in dict.fromkeys(shapes):
        ids = np.array([i + first for i, s in enumerate(shapes) if s == shape and i + first not in absent])
        for start in range(0, max(len(ids), 1), size):
            some = ids[start : start + size].astype(np.int64)
            latents = np.array([latents_of(int(row), shape) for row in some], LATENT_DTYPE)
            packs.append(Pack(latents.reshape(-1, *shape), some, some % 10))
    packs[-1] = Pack(packs[-1].latents, packs[-1].ids, packs[-1].labels, tuple(gone))
    return packs


def make_cache(
    folder: Path,
    shards: list[list[Shape]],
    absent: Iterable[int] = (),
    *,
    encoder: str = "a",
    counts: bool = False,
) -> Cache:
    """Make a cache whose shard s holds samples of the given shapes; `absent` rows have no latents."""
    folder.mkdir(parents=True, exist_ok=True)
    buckets = sorted({shape for shard in shards for shape in shard})
    rows, records, sums, first = [], [], [], 0
    for number, shapes in enumerate(shards):
        path = folder / f"{number:06d}.tar"
        gone = [row for row in absent if first <= row < first + len(shapes)]
        packs = packs_of(first, shapes, gone)
        sums += [LatentSums.of(pack.latents) for pack in packs if len(pack.ids)]
        places = write_part(path, number, packs)
        rows.append(index_rows(path, places, shard=number, first=first, buckets=buckets))
        records.append(
            ShardRecord(
                name=path.name, samples=len(shapes), bytes=path.stat().st_size, sha256=sha256_file(path)
            )
        )
        first += len(shapes)
    index = np.concatenate(rows)
    starts = np.cumsum([0, *map(len, shards)])
    extra = {"made_from": {"encoder": encoder}, "statistics": sum(sums[1:], sums[0]).statistics()}
    if counts:
        extra["bucket_counts"] = count_buckets(index["bucket"], starts, len(buckets)).tolist()
    manifest = DatasetManifest(
        kind="latent",
        fingerprint="f",
        shards=tuple(records),
        buckets=tuple(buckets),
        files=write_index(folder, index),
        extra=extra,
    )
    manifest.write(folder)
    return Cache(folder, manifest, index)
