"""Opening a dataset of very many samples: its first batch, and what a rank keeps of it."""

from __future__ import annotations

import gc
import os
import shutil
import time
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch

from core.distributed.ranks import World
from core.files import published_names
from data.dataset.index import Dataset
from data.dataset.manifest import DatasetManifest
from data.dataset.schema import INDEX, INDEX_DTYPE
from data.dataset.shared.shard_table import ShardRecord
from data.latent.packs import Shape
from data.loading.loader import LatentLoader
from data.order.steps import LoaderConfig
from tools.bench.job import Config
from tools.bench.material import make_cache
from tools.bench.reader import anonymous, is_right
from tools.bench.rounds import Floor, Row

SHARD_SAMPLES = 10_000
SHAPE: Shape = (1, 4, 1, 8, 8)
RANKS, PER_RANK = 64, 256
MOST_S = 1.0


def opening(config: Config, folder: Path) -> Row:
    """Measure a new loader and its first batch, in the middle of an epoch, on the first rank and another."""
    with patch.dict(os.environ, LONGTAKE_CACHE=str(folder / "copies")):
        return _measured(config, folder)


def _measured(config: Config, folder: Path) -> Row:
    shards = max(RANKS, config.open_rows // SHARD_SAMPLES)
    folder.mkdir(parents=True)
    cache = _huge(folder, shards)
    step = shards * SHARD_SAMPLES // (RANKS * PER_RANK) // 2
    rows = _loader(cache, 0).plan.micro_batch_rows(step)[0].rows
    _fill(cache, folder / "one", rows)
    took: dict[int, list[float]] = {0: [], RANKS - 1: []}
    kept = kept_by_another = 0.0
    for _ in range(config.rounds):
        shutil.rmtree(folder / "copies", ignore_errors=True)  # a small manifest has none
        before = anonymous()
        start = time.process_time()
        batch = _loader(Dataset(cache.folder), 0).load(step)[0]
        took[0].append(time.process_time() - start)
        kept = (anonymous() - before) / 1e6
        if not is_right((batch.id.numpy() % SHARD_SAMPLES, batch.x), SHAPE):
            raise AssertionError("the first batch has not the latents of its samples")
        before = anonymous()
        start = time.process_time()
        other = _loader(Dataset(cache.folder, look=False), RANKS - 1)
        took[RANKS - 1].append(time.process_time() - start)
        kept_by_another = (anonymous() - before) / 1e6
        del batch, other
        gc.collect()
    protocol = (
        f"{shards * SHARD_SAMPLES:,} samples in {shards:,} shards, the index with holes; {RANKS} ranks x "
        f"{PER_RANK} samples; processor time of opening, loader and batch, fastest of {config.rounds}; one "
        "rank lists the folder and parses the manifest, of which the others map its copy"
    )
    row = Row("opening a huge dataset", "starts", protocol)
    row.facts |= {
        "first_batch_s": min(took[0]),
        "open_s_of_another_rank": min(took[RANKS - 1]),
        "manifest_bytes": float((cache.folder / "dataset.json").stat().st_size),
        "index_bytes": float((cache.folder / INDEX).stat().st_size),
        "memory_bytes": kept * 1e6,
        "memory_bytes_of_another_rank": kept_by_another * 1e6,
        "listed_names": float(len(published_names(cache.folder))),
    }
    row.floors.append(
        Floor("seconds of the processor to the first batch", min(took[0]), MOST_S, at_most=True)
    )
    return row


def _loader(cache: Dataset, rank: int) -> LatentLoader:
    settings = LoaderConfig(group_size=RANKS * PER_RANK, rank_multiple=RANKS)
    return LatentLoader([cache], settings, World(rank, RANKS, 0, torch.device("cpu")), seed=0)


def _huge(folder: Path, shards: int) -> Dataset:
    """Make a cache whose shards are links to one, and whose index is all holes."""
    one = make_cache(folder / "one", SHARD_SAMPLES, SHAPE, shards=1)
    (part,) = one.manifest.shards
    large = folder / "large"
    large.mkdir()
    records = []
    for number in range(shards):
        (large / f"{number:06d}.tar").symlink_to((one.folder / part.name).resolve())
        name, digest = f"{number:06d}.tar", f"{number:064x}"
        records.append(ShardRecord(name=name, samples=SHARD_SAMPLES, bytes=part.bytes, sha256=digest))
    size = (shards * SHARD_SAMPLES,)
    np.lib.format.open_memmap(large / INDEX, "w+", INDEX_DTYPE, size)
    extra = {**one.manifest.extra, "bucket_counts": [[SHARD_SAMPLES]] * shards}
    manifest = DatasetManifest(
        kind="latent", fingerprint="huge", shards=tuple(records), buckets=(list(SHAPE),), extra=extra
    )
    manifest.write(large)
    return Dataset(large)


def _fill(cache: Dataset, one: Path, rows: np.ndarray) -> None:
    """Write the entries of these rows into the index."""
    index = np.lib.format.open_memmap(cache.folder / INDEX, "r+")
    shard, place = np.divmod(rows, SHARD_SAMPLES)
    entries = np.asarray(Dataset(one).index)[place]
    entries["id"], entries["shard"] = rows, shard
    index[rows] = entries
    index.flush()
