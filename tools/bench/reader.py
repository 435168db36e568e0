"""Reading latents at random into batch tensors, the start far into a large cache, and the memory it takes."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from core.distributed import World
from core.progress import say
from data.index import Dataset
from data.latents import LatentReader
from data.loader import LatentLoader
from data.members import array_place
from data.packs import LATENT_DTYPE, Shape
from data.schema import INDEX, INDEX_DTYPE, DatasetManifest, ShardRecord
from data.steps import LoaderConfig
from data.tars import members, parse_sample
from tools.bench import peers
from tools.bench.job import Config
from tools.bench.material import IMAGE, VIDEO, latents_of, make_cache, make_plain_tars, repeat
from tools.bench.rounds import Floor, Row, Way, measure

Read = tuple[np.ndarray, torch.Tensor]  # ids (n,) and their latents (n, ...)


def rows(config: Config, folder: Path) -> list[Row]:
    """All cases; `folder` holds the material."""
    torch.set_num_threads(1)
    say(f"bench: writing {config.samples} latents")
    images = make_cache(folder / "images", config.samples, IMAGE)
    result = [latents(config, folder / "peers-8k", images, IMAGE, 256, config.peer_samples)]
    result[0].floors.insert(0, Floor("samples/s", next(iter(result[0].timings.values())).best, 700_000))
    result[0].require("preadv", 0.5)
    result[0].require("litdata", 5)
    result[0].require("webdataset", 90)
    say(f"bench: writing {config.videos} latents of clips")
    videos = make_cache(folder / "videos", config.videos, VIDEO)
    result.append(latents(config, folder / "peers-2m", videos, VIDEO, 8, min(32, config.videos)))
    result[1].require("preadv", 0.9)
    result.append(plain(config, folder / "plain"))
    result.append(far(config, folder / "far", images))
    return result


def latents(config: Config, folder: Path, cache: Dataset, shape: Shape, batch: int, few: int) -> Row:
    """Shuffled latents of one shape, all of the cache a round."""
    folder.mkdir()
    loader = LatentLoader(
        cache, LoaderConfig(group_size=batch, rank_multiple=1), World(0, 1, 0, torch.device("cpu")), seed=0
    )
    reader = LatentReader(cache.folder, cache.manifest, cache.index)
    steps = len(cache) // batch
    order = [loader.plan.shares(step)[0].rows for step in range(steps)]

    def gather() -> Iterator[Read]:
        return ((rows, reader.gather(rows)) for rows in order)

    def load() -> Iterator[Read]:
        return ((b.id.numpy(), b.x) for step in range(steps) for b in loader.load(step))

    found, absent = peers.latent_readers(folder, shape, batch, few)

    def right(item: Read) -> bool:
        return is_right(item, shape)

    ways = [
        Way("longtake", steps * batch, gather, right),
        Way("longtake, whole loader", steps * batch, load, right),
        Way("preadv", steps * batch, lambda: in_order(cache, batch, steps, shape), right),
        Way("preadv of each sample", steps * batch, lambda: one_by_one(cache, order, shape), right),
        *(Way(name, few // batch * batch, items, right) for name, items in found.items()),
    ]
    case = f"shuffled latents of {2 * int(np.prod(shape))} bytes"
    protocol = (
        f"{steps} batches of {batch} from the page cache, one process, one thread; longtake: rows of the "
        "loader's order, gathered; whole loader: order, labels, ids and the check for NaN too; preadv: one "
        f"call for each contiguous run of as many bytes, in the order of the file; peers: {few} samples"
    )
    before = anonymous()
    row = Row(case, "samples", protocol, measure(ways[:2], 1))
    row.facts["anonymous memory of the reader, MB"] = (anonymous() - before) / 1e6
    allowed = 200 + 3 * batch * 2 * int(np.prod(shape)) / 1e6
    row.floors.append(Floor("MB anonymous, with 3 batches", next(iter(row.facts.values())), allowed, True))
    row.timings, row.absent = measure(ways, config.rounds), absent
    return row


def is_right(item: Read, shape: Shape) -> bool:
    """Whether a batch holds what was written for its ids."""
    ids, latents = item
    wanted = latents_of(np.asarray(ids, np.int64), shape)
    return np.array_equal(wanted.view(np.uint16), latents.numpy().reshape(wanted.shape).view(np.uint16))


def in_order(cache: Dataset, batch: int, steps: int, shape: Shape) -> Iterator[Read]:
    """The limit: the same number of bytes by `preadv` straight into the batch, a run of samples a call."""
    index = np.asarray(cache.index)
    out = torch.empty((batch, *shape), dtype=torch.float16)
    buffer = out.numpy().data.cast("B")
    files = [os.open(cache.shard_path(s), os.O_RDONLY) for s in range(len(cache.manifest.shards))]
    try:
        for step in range(steps):
            rows = np.arange(step * batch, (step + 1) * batch)
            shards, offsets = index["shard"][rows].astype(int), index["offset"][rows].astype(int)
            size = int(index["size"][rows[0]])
            breaks = np.flatnonzero((np.diff(offsets) != size) | (np.diff(shards) != 0)) + 1
            edges = [0, *breaks.tolist(), batch]
            for start, stop in itertools.pairwise(edges):
                os.preadv(files[shards[start]], [buffer[start * size : stop * size]], offsets[start])
            yield rows, out
    finally:
        for file in files:
            os.close(file)


def one_by_one(cache: Dataset, order: list[np.ndarray], shape: Shape) -> Iterator[Read]:
    """The same samples in the same order as ours, one `preadv` each."""
    index = np.asarray(cache.index)
    out = torch.empty((len(order[0]), *shape), dtype=torch.float16)
    buffer = out.numpy().data.cast("B")
    files = [os.open(cache.shard_path(s), os.O_RDONLY) for s in range(len(cache.manifest.shards))]
    try:
        for rows in order:
            entries, at = index[rows], 0
            places = (entries[name].tolist() for name in ("shard", "offset", "size"))
            for shard, offset, size in zip(*places, strict=True):
                at += os.preadv(files[shard], [buffer[at : at + size]], offset)
            yield rows, out
    finally:
        for file in files:
            os.close(file)


def plain(config: Config, folder: Path) -> Row:
    """Tars from elsewhere, one member a sample, behind an index."""
    samples, batch = max(512, config.samples // 4), 256
    paths = make_plain_tars(folder, samples, IMAGE)
    index, records = index_values(paths)
    manifest = DatasetManifest(kind="latent", fingerprint="", shards=records, buckets=(list(IMAGE),))
    reader = LatentReader(folder, manifest, index)
    random = np.random.default_rng(0).permutation(samples)
    order = [np.sort(random[at : at + batch]) for at in range(0, samples - batch + 1, batch)]

    def gather() -> Iterator[Read]:
        return ((rows, reader.gather(rows)) for rows in order)

    def parse() -> Iterator[Read]:
        files = [os.open(path, os.O_RDONLY) for path in paths]
        for rows in order[: max(1, config.peer_samples // batch)]:
            out = np.empty((batch, *IMAGE), LATENT_DTYPE)
            for place, entry in enumerate(index[rows]):
                header = int(entry["offset"]) - 128 - 512  # of the .npy, and of the tar
                _, found = parse_sample(os.pread(files[entry["shard"]], 512 + 8704, header))
                out[place] = np.frombuffer(found["latent.npy"], LATENT_DTYPE, offset=128).reshape(IMAGE)
            yield rows, torch.from_numpy(out)
        for file in files:
            os.close(file)

    few = max(batch, config.peer_samples // batch * batch)

    def right(item: Read) -> bool:
        return is_right(item, IMAGE)

    ways = [
        Way("longtake", len(order) * batch, gather, right),
        Way("longtake, members parsed", few, parse, right),
        Way("webdataset", few, lambda: peers.webdataset_latents(paths, batch, few, shuffle=True), right),
    ]
    protocol = (
        f"{samples} members of 8 KiB in {len(paths)} tars; longtake: an index of where each member's values "
        "begin, gathered; members parsed: the member's headers are read and checked again each time"
    )
    row = Row("plain foreign tar, indexed", "samples", protocol, measure(ways, config.rounds))
    row.floors.append(Floor("samples/s", row.timings["longtake"].best, 115_000))
    row.require("webdataset", 15)
    return row


def index_values(paths: list[Path]) -> tuple[np.ndarray, tuple[ShardRecord, ...]]:
    """Where the values of every `.npy` member of some tars lie."""
    entries: list[tuple[int, ...]] = []
    records: list[ShardRecord] = []
    for number, path in enumerate(paths):
        found = list(members(path))
        with open(path, "rb") as file:
            for member in found:
                shape, offset = array_place(path, member.name, member, file, LATENT_DTYPE)
                entries.append((len(entries), number, offset, 2 * int(np.prod(shape)), 0, -1))
        size = path.stat().st_size
        records.append(ShardRecord(name=path.name, samples=len(found), bytes=size, sha256=""))
    return np.array(entries, INDEX_DTYPE), tuple(records)


def far(config: Config, folder: Path, images: Dataset) -> Row:
    """From a loader that is made to its first batch, at the end of the epoch of a large cache."""
    large = repeat(images, folder, config.index_rows)
    step = len(large) // 256 - 1
    firsts: list[float] = []

    def first_batch() -> Iterator[Read]:
        loader = LatentLoader(large, LoaderConfig(), World(0, 1, 0, torch.device("cpu")), seed=len(firsts))
        start = time.perf_counter()
        batch = loader.load(step)[0]
        firsts.append(time.perf_counter() - start)
        yield batch.id.numpy() % len(images), batch.x

    protocol = (
        f"{len(large)} samples in {len(large.manifest.shards)} shards that link to {len(images)} samples; "
        "the time is that of a new loader and its batch at the last step of the epoch; apart, the batch alone"
    )
    row = Row("first batch at the far end of a large cache", "batches", protocol)
    row.timings = measure(
        [Way("longtake", 1, first_batch, lambda item: is_right(item, IMAGE))], config.rounds
    )
    row.facts["milliseconds to the first batch, fastest"] = min(firsts) * 1e3
    row.facts["milliseconds to the first batch, median"] = float(np.median(firsts)) * 1e3
    size = (large.folder / INDEX).stat().st_size / 1e6
    row.facts["index, MB"] = size
    row.floors.append(Floor("ms to seek and read, fastest", min(firsts) * 1e3, 50, at_most=True))
    row.floors.append(Floor("MB of index", size, 40 * len(large) / 1e6, at_most=True))
    return row


def anonymous() -> int:
    """Bytes of memory of this process that no file backs; 0 where the system does not say."""
    about = Path("/proc/self/smaps_rollup")
    lines = about.read_text().splitlines() if about.exists() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Anonymous:")), 0)
