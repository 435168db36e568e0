"""Measure reading latents at random into batch tensors, the start far into a large cache, and its memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

from core.distributed.ranks import World
from core.files import published
from core.progress import say
from data.dataset.index import Dataset
from data.dataset.schema import INDEX
from data.latent.memory import BatchMemory
from data.latent.packs import Shape
from data.latent.reading import LatentReader
from data.loading.ahead import read_ahead
from data.loading.loader import LatentLoader
from data.order.steps import LoaderConfig
from data.reindexing.reindex import reindex
from tools.bench import limits, peers
from tools.bench.job import Config
from tools.bench.limits import Read
from tools.bench.material import IMAGE, VIDEO, latents_of, make_cache, make_plain_tars, repeat
from tools.bench.rounds import Floor, Row, Way, measure

WHOLE = "longtake, whole loader"
GATHER = "longtake, our gather alone"


def rows(config: Config, folder: Path) -> list[Row]:
    """Measure all cases; `folder` holds the material."""
    say(f"bench: writing {config.samples} latents")
    images = make_cache(folder / "images", config.samples, IMAGE)
    result = [latents(config, folder / "peers-8k", images, IMAGE, 256)]
    result[0].floors.insert(0, Floor("samples/s", result[0].timings[WHOLE].best, 200_000))
    result[0].require("webdataset", 25)
    _require_share(result[0], GATHER, "preadv", 0.5)
    say(f"bench: writing {config.videos} latents of clips")
    videos = make_cache(folder / "videos", config.videos, VIDEO)
    result.append(latents(config, folder / "peers-2m", videos, VIDEO, 8))
    _require_share(result[1], GATHER, "preadv", 0.9)
    _require_share(result[1], WHOLE, GATHER, 0.85)
    result.append(plain(config, folder / "plain"))
    tars = published(folder / "peers-8k" / "tars", "*.tar")
    result.append(far(config, folder / "far", images, tars))
    return result


def _require_share(row: Row, name: str, other: str, floor: float) -> None:
    """Promise that one way is at least `floor` times as fast as another, by the fastest round of each."""
    share = row.timings[name].best / row.timings[other].best
    row.floors.append(Floor(f"{name}: of {other}", share, floor))


def latents(config: Config, folder: Path, cache: Dataset, shape: Shape, batch: int) -> Row:
    """Measure shuffled latents of one shape, all of the cache a round, by every way alike.

    A round begins when the first batch is there: what a way does before is timed apart.
    """
    folder.mkdir()
    steps = len(cache) // batch
    before = anonymous()
    own = _own(cache, shape, batch, steps)
    checked = {name: own[name] for name in (WHOLE, GATHER)}

    def right(item: Read) -> bool:
        return is_right(item, shape)

    def ways(items: dict[str, Callable[[], Iterator[Read]]]) -> list[Way]:
        return [Way(name, (steps - 1) * batch, make, right, has_start=True) for name, make in items.items()]

    measure(ways(checked), 1)
    used = (anonymous() - before) / 1e6
    found, absent = peers.latent_readers(folder, shape, batch, len(cache))
    case = f"shuffled latents of {2 * int(np.prod(shape))} bytes"
    row = Row(
        case, "samples", _protocol(steps, batch), measure(ways({**own, **found}), config.rounds), absent
    )
    row.facts["anonymous memory of the reader, MB"] = used
    for name in (WHOLE, "litdata", "mosaicml-streaming"):
        if name in row.timings:
            row.facts[f"ms to the first batch, median, {name}"] = 1e3 * row.timings[name].start
    allowed = 200 + 3 * batch * 2 * int(np.prod(shape)) / 1e6
    row.floors.append(Floor("MB anonymous, with 3 batches", used, allowed, True))
    return row


def _own(cache: Dataset, shape: Shape, batch: int, steps: int) -> dict[str, Callable[[], Iterator[Read]]]:
    """Return this project's ways and the machine's limits, the whole loader first."""
    loader = LatentLoader(
        [cache], LoaderConfig(group_size=batch, rank_multiple=1), World(0, 1, 0, torch.device("cpu")), seed=0
    )
    order = [loader.plan.micro_batch_rows(step_index)[0].rows for step_index in range(steps)]

    def reading(
        *, finite: bool = False, verify: bool = False, anew: bool = False
    ) -> Callable[[], Iterator[Read]]:
        def make() -> LatentReader:
            return LatentReader(cache.folder, cache.manifest, cache.index, verify=verify)

        kept = make()

        def gather() -> Iterator[Read]:
            reader = make() if anew else kept
            return ((rows, reader.gather(rows, finite=finite)) for rows in order)

        return gather

    def load() -> Iterator[Read]:
        return ((b.id.numpy(), b.x) for step_index in range(steps) for b in loader.load(step_index))

    def ahead() -> Iterator[Read]:
        loaded = read_ahead(loader.load, 0, loader.config.prefetch, steps)
        return ((b.id.numpy(), b.x) for step in loaded for b in step)

    return {
        WHOLE: load,
        "longtake, whole loader read ahead by a thread": ahead,
        GATHER: reading(),
        "longtake, gather with the check for NaN": reading(finite=True),
        "longtake, gather, parts opened anew": reading(anew=True),
        "longtake, gather, every sample's CRC compared": reading(verify=True),
        "preadv": lambda: limits.in_order(cache, batch, steps, shape, BatchMemory()),
        "preadv into one buffer": lambda: limits.in_order(cache, batch, steps, shape),
        "preadv of each sample": lambda: limits.one_by_one(cache, order, shape, BatchMemory()),
    }


def _protocol(steps: int, batch: int) -> str:
    return (
        f"{steps} batches of {batch} from the page cache by every way, in one process without workers; the "
        "clock starts when the first batch is there, and counts the others; "
        f"longtake: copies by {torch.get_num_threads()} threads of torch (OMP_NUM_THREADS), into tensors one "
        "may keep; whole loader: order, labels, ids, hashes of the order, and every value compared with NaN "
        "and infinity as it is copied; our gather alone: rows of the loader's order and nothing checked; "
        "parts opened anew: with the page faults of the first epoch; CRC compared: as data.verify=samples; "
        "preadv: one call for each contiguous run of as many bytes, in the order of the file, into tensors "
        "one may keep, whose memory is used again as ours; into one buffer: the same, overwritten each time, "
        "so that it stays in the processor's cache; litdata, mosaicml-streaming: their streaming loaders, "
        "shuffled, a new one each round, by their defaults without worker processes"
    )


def is_right(item: Read, shape: Shape) -> bool:
    """Return whether a batch holds what was written for its ids."""
    ids, latents = item
    wanted = latents_of(np.asarray(ids, np.int64), shape)
    return np.array_equal(wanted.view(np.uint16), latents.numpy().reshape(wanted.shape).view(np.uint16))


def plain(config: Config, folder: Path) -> Row:
    """Measure foreign tars, one member a sample, behind the index that `inspect action=reindex` makes."""
    samples, batch = max(512, config.samples // 4), 256
    paths = make_plain_tars(folder, samples, IMAGE)
    start = time.perf_counter()
    manifest = reindex(folder).manifest
    seconds = time.perf_counter() - start
    index = np.asarray(Dataset(folder).index)
    reader = LatentReader(folder, manifest, index)
    random = np.random.default_rng(0).permutation(samples)
    order = [np.sort(random[at : at + batch]) for at in range(0, samples - batch + 1, batch)]

    def gather() -> Iterator[Read]:
        return ((rows, reader.gather(rows)) for rows in order)

    few = min(samples, config.peer_samples) // batch * batch

    def right(item: Read) -> bool:
        return is_right(item, IMAGE)

    some = order[: max(1, config.peer_samples // batch)]
    ways = [
        Way("longtake", len(order) * batch, gather, right),
        Way(
            "longtake, members parsed",
            len(some) * batch,
            lambda: limits.parsed(paths, index, some, IMAGE),
            right,
        ),
        Way("webdataset", few, lambda: peers.webdataset_latents(paths, batch, few, shuffle=True), right),
    ]
    protocol = (
        f"{samples} members of 8 KiB in {len(paths)} tars; longtake: `inspect action=reindex`, then the "
        "training reader; members parsed: the member's headers are read and checked again each time"
    )
    row = Row("plain foreign tar, indexed", "samples", protocol, measure(ways, config.rounds))
    row.facts["samples/s indexed once, every value read"] = samples / seconds
    row.floors.append(Floor("samples/s", row.timings["longtake"].best, 115_000))
    row.require("webdataset", 15)
    return row


def far(config: Config, folder: Path, images: Dataset, tars: list[Path]) -> Row:
    """Measure the time from a new loader to its first batch, at the end of the epoch of a large cache."""
    large = repeat(images, folder, config.index_rows)
    step = len(large) // 256 - 1
    firsts: list[float] = []
    few = min(config.peer_samples, len(images))
    skipped = few - few % 256

    def first_batch() -> Iterator[Read]:
        opened = Dataset(large.folder)  # no block of which was compared yet
        loader = LatentLoader([opened], LoaderConfig(), World(0, 1, 0, torch.device("cpu")), seed=len(firsts))
        start = time.perf_counter()
        batch = loader.load(step)[0]
        firsts.append(time.perf_counter() - start)
        yield batch.id.numpy() % len(images), batch.x

    def right(item: Read) -> bool:
        return is_right(item, IMAGE)

    ours = Way("longtake", 1, first_batch, right)
    skip = Way(
        "webdataset, skipping there", 1, lambda: peers.webdataset_skip(tars, skipped - 256, 256), right
    )
    timings = measure([ours, skip], config.rounds)
    protocol = (
        f"{len(large)} samples in {len(large.manifest.shards)} shards that link to {len(images)} samples; "
        "the time is that of a new loader and its batch at the last step of the epoch; apart, the batch "
        f"alone; webdataset: its first batch behind {skipped - 256} samples only, which it reads, not decodes"
    )
    row = Row("first batch at the far end of a large cache", "batches", protocol, timings)
    row.facts["milliseconds to the first batch, fastest"] = min(firsts) * 1e3
    row.facts["milliseconds to the first batch, median"] = float(np.median(firsts)) * 1e3
    skipping = timings[skip.name]
    row.facts["samples/s that webdataset skips, fastest"] = skipped * skipping.best
    row.facts["samples/s that webdataset skips, median"] = skipped * skipping.median
    size = (large.folder / INDEX).stat().st_size / 1e6
    row.facts["index, MB"] = size
    row.floors.append(Floor("ms to seek and read, fastest", min(firsts) * 1e3, 50, at_most=True))
    row.floors.append(Floor("MB of index", size, 40 * len(large) / 1e6, at_most=True))
    return row


def anonymous() -> int:
    """Return this process's bytes of memory that no file backs; 0 if the system does not say."""
    about = Path("/proc/self/smaps_rollup")
    lines = about.read_text().splitlines() if about.exists() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Anonymous:")), 0)
