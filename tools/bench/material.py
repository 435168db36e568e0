"""Data for the benchmarks: latents whose values follow from their ids, in caches and in plain tars."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np

from data.dataset.index import Dataset
from data.dataset.manifest import DatasetManifest
from data.dataset.schema import CRC, write_index
from data.dataset.shared.shard_table import ShardRecord
from data.latent.checksums import range_crcs
from data.latent.members import tar_header
from data.latent.pack_rows import index_rows
from data.latent.packs import LATENT_DTYPE, PACK_SAMPLES, Pack, Shape, write_part
from data.order.bucket_rows import count_buckets

IMAGE: Shape = (1, 4, 1, 32, 32)  # 8 KiB
VIDEO: Shape = (1, 16, 13, 60, 90)  # 2.2 MB
_DIFFERENT = 7


def latents_of(ids: np.ndarray, shape: Shape) -> np.ndarray:
    """Make latents (n, *shape) float16: noise that recurs every 7 ids, and the id in the first two values."""
    latents = _noise(shape)[ids % _DIFFERENT]
    flat = latents.reshape(len(ids), -1)
    flat[:, 0], flat[:, 1] = ids % 2048, ids // 2048
    return latents


@lru_cache(maxsize=2)
def _noise(shape: Shape) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((_DIFFERENT, *shape), np.float32).astype(LATENT_DTYPE)


def packs_of(first: int, count: int, shape: Shape) -> Iterator[Pack]:
    """Yield the packs of ids first, first + 1, ..."""
    for start in range(first, first + count, PACK_SAMPLES):
        ids = np.arange(start, min(start + PACK_SAMPLES, first + count))
        yield Pack(latents_of(ids, shape), ids.astype(np.uint64), (ids % 10).astype(np.int64))


def make_cache(folder: Path, samples: int, shape: Shape, shards: int = 16) -> Dataset:
    """Make a latent cache as `encode` leaves it."""
    folder.mkdir()
    starts = np.linspace(0, samples, shards + 1).astype(int)
    rows, crcs, records = [], [], []
    for number, (start, stop) in enumerate(zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True)):
        path = folder / f"{number:06d}.tar"
        places = write_part(path, number, packs_of(start, stop - start, shape))
        rows.append(index_rows(path, places, shard=number, first=start, buckets=[shape]))
        crcs.append(range_crcs(path, rows[-1]))
        records.append(ShardRecord.of(path, stop - start))
    return publish(folder, np.concatenate(rows), np.concatenate(crcs), records, shape)


def publish(
    folder: Path, index: np.ndarray, crcs: np.ndarray, records: list[ShardRecord], shape: Shape
) -> Dataset:
    """Write index, hashes and manifest beside the parts of a cache."""
    starts = np.cumsum([0, *(record.samples for record in records)])
    counts = count_buckets(index["bucket"], starts, 1).tolist()
    DatasetManifest(
        kind="latent",
        fingerprint="synthetic",
        shards=tuple(records),
        buckets=(list(shape),),
        files=write_index(folder, index, crcs=crcs),
        extra={
            "made_from": {"encoder": "none"},
            "bucket_counts": counts,
            "statistics": {"mean": [0.0] * shape[1], "std": [1.0] * shape[1]},
        },
    ).write(folder)
    return Dataset(folder)


def repeat(dataset: Dataset, folder: Path, rows: int) -> Dataset:
    """Make a cache of at least `rows` samples whose shards are links to those of `dataset`, repeated."""
    folder.mkdir()
    records: list[ShardRecord] = []
    samples, index = len(dataset), np.asarray(dataset.index)
    times, shards = -(-rows // samples), len(dataset.manifest.shards)
    repeated = np.tile(index, times)
    repeated["id"] = np.arange(len(repeated))
    repeated["shard"] += np.repeat(np.arange(times, dtype=np.uint32) * shards, samples)
    for number in range(times):
        for record in dataset.manifest.shards:
            name = f"{number:05d}-{record.name}"
            (folder / name).symlink_to((dataset.folder / record.name).resolve())
            records.append(
                ShardRecord(name=name, samples=record.samples, bytes=record.bytes, sha256=record.sha256)
            )
    shape: Shape = tuple(dataset.manifest.buckets[0])
    crcs = np.tile(np.load(dataset.folder / CRC), times)
    return publish(folder, repeated, crcs, records, shape)


def npy(latent: np.ndarray) -> bytes:
    """Return an array as the bytes of a `.npy` file."""
    file = io.BytesIO()
    np.save(file, latent)
    return file.getvalue()


def make_plain_tars(folder: Path, samples: int, shape: Shape, shards: int = 4) -> list[Path]:
    """Write tars as other tools do: one member `00000000.latent.npy` a sample, no index."""
    folder.mkdir()
    paths = [folder / f"{number:06d}.tar" for number in range(shards)]
    for path, ids in zip(paths, np.array_split(np.arange(samples), shards), strict=True):
        with open(path, "wb") as file:
            for id in ids.tolist():
                data = npy(latents_of(np.array([id]), shape)[0])
                file.write(tar_header(f"{id:08d}.latent.npy", len(data)) + data)
                file.write(bytes(-len(data) % tarfile.BLOCKSIZE))
            file.write(bytes(2 * tarfile.BLOCKSIZE))
    return paths
