"""Measure writing latents: packed parts beside one member a sample and the raw bytes."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from data.latent.pack_reading import read_part
from data.latent.packs import LATENT_DTYPE, Pack, write_packs, write_part
from tools.bench import peers
from tools.bench.job import Config
from tools.bench.material import IMAGE, latents_of, packs_of
from tools.bench.rounds import Floor, Row, Way, measure

_CHECKED = 256  # samples of a file that are compared


def rows(config: Config, folder: Path) -> list[Row]:
    """Measure the case without fsync, where the page cache takes the bytes, and the one with it."""
    packs = list(packs_of(0, config.samples, IMAGE))
    few = np.concatenate([pack.latents for pack in itertools.islice(packs, -(-config.peer_samples // 64))])
    few = few[: config.peer_samples]
    result = [_row(config, folder, packs, few, sync=sync) for sync in (False, True)]
    result[0].require("webdataset TarWriter", 20)
    for row in result:
        row.facts["bytes on disk for one of payload"] = _overhead(folder / "longtake.tar", config.samples)
        row.facts["the same, webdataset TarWriter"] = _overhead(folder / "members.tar", len(few))
    overhead = result[0].facts["bytes on disk for one of payload"]
    result[0].floors.append(Floor("bytes for one of payload", overhead, 1.03, at_most=True))
    return result


def _row(config: Config, folder: Path, packs: list[Pack], few: np.ndarray, *, sync: bool) -> Row:
    ours, members, shards, raw = (
        folder / name for name in ("longtake.tar", "members.tar", "s-%d.tar", "raw")
    )

    def write() -> Iterator[Path]:
        if sync:
            write_part(ours, 0, packs)
        else:
            with open(ours, "wb") as file:
                write_packs(file, 0, packs)
        yield ours

    def finish(path: Path) -> Iterator[Path]:
        if sync:
            _fsync(path)
        yield path

    ways = [
        Way("longtake", config.samples, write, _is_part),
        Way(
            "webdataset TarWriter", len(few), lambda: finish(peers.write_members(members, few)), _are_members
        ),
        Way(
            "webdataset ShardWriter",
            len(few),
            lambda: finish(peers.write_shard(shards, few)),
            _are_members,
        ),
        Way("raw write", config.samples, lambda: finish(_write_raw(raw, packs)), _is_raw(packs)),
    ]
    how = "synced to the disk by all" if sync else "neither hashed nor synced by any"
    protocol = (
        f"{config.samples} latents of 8 KiB with ids and labels, peers {len(few)}, {how}; longtake also "
        "refuses values that are not finite"
    )
    return Row(f"write latents, {how}", "samples", protocol, measure(ways, config.rounds))


def _write_raw(path: Path, packs: list[Pack]) -> Path:
    with open(path, "wb", buffering=0) as file:
        for pack in packs:
            file.write(pack.latents.data.cast("B"))
    return path


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _overhead(path: Path, samples: int) -> float:
    return path.stat().st_size / (samples * 2 * int(np.prod(IMAGE)))


def _is_part(path: Path) -> bool:
    found = list(itertools.islice(read_part(path), _CHECKED // 64))
    return all(np.array_equal(pack.latents, latents_of(pack.ids.astype(int), IMAGE)) for pack in found)


def _are_members(path: Path) -> bool:
    found = np.stack(list(itertools.islice(peers.read_members(path), _CHECKED)))
    return np.array_equal(found, latents_of(np.arange(len(found)), IMAGE))


def _is_raw(packs: list[Pack]) -> Callable[[Path], bool]:
    def check(path: Path) -> bool:
        found = np.fromfile(path, LATENT_DTYPE, count=packs[0].latents.size)
        whole = path.stat().st_size == sum(pack.latents.nbytes for pack in packs)
        return whole and np.array_equal(found.reshape(packs[0].latents.shape), packs[0].latents)

    return check
