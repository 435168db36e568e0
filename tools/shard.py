"""Pack image and video files into WebDataset shards with manifest and index."""

from __future__ import annotations

import multiprocessing
import os
import re
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from core.errors import UserError, WorkError
from core.outputs import claim
from core.progress import Progress, say
from core.settings import REQUIRED, setting
from data.formats import DEFAULT_LIMITS, MediaLimits

if TYPE_CHECKING:
    from data.ingest import Item, Listing
    from data.schema import Quarantine
    from data.shards import ShardTask

MANIFEST = "dataset.json"


@dataclass(frozen=True, kw_only=True)
class Config:
    """What is packed, and how."""

    source: str = setting(REQUIRED, "folder (classes from sub-folders), table (.csv .jsonl .parquet) or .tar")
    output: str = setting(REQUIRED, "folder that receives the dataset")
    seed: int = setting(0, "seed of the order in which samples are packed", low=0)
    overwrite: bool = setting(False, "pack again over a finished output")
    processes: int = setting(1, "shards written at the same time", low=1)
    name: str = setting("data", "what the names of the shards begin with")
    shuffle: bool = setting(True, "mix the samples over the shards; false keeps the order of the source")
    classes: bool = setting(True, "keep classes and labels; false leaves them out")
    samples_per_shard: int = setting(1024, "most samples of a shard", unit="samples", low=1)
    bytes_per_shard: int = setting(
        2**30, "most bytes of media in a shard of several samples", unit="bytes", low=1
    )
    check: Literal["decode", "header"] = setting("decode", "how far each file is decoded before it is packed")
    limits: MediaLimits = setting(DEFAULT_LIMITS, "what is refused because it is too large")
    quarantine_budget: float = setting(
        0.1, "unusable samples that do not stop the job: a fraction if below 1, else a number", low=0
    )

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_-]*", self.name):
            raise UserError("name", self.name, "letters, digits, - and _")


def plan(config: Config) -> list[str]:
    """Say what `run` would pack."""
    listing, tasks = _prepared(config)
    size = sum(item.size for item in listing.items)
    unusable = sum(item.refused is not None for item in listing.items)
    lines = [
        f"{len(listing.items)} samples, {size / 2**20:.1f} MiB, {len(listing.classes)} classes",
        f"{len(tasks)} shards {tasks[0].name} to {tasks[-1].name} in {config.output}",
    ]
    if unusable:
        lines.append(f"{unusable} of them are known to be unusable and will be set aside")
    return lines + _ignored(listing)


def run(config: Config) -> None:
    """Write the shards that are not there yet, then index and manifest; of several ranks only 0 works."""
    from data.schema import QUARANTINE, Quarantine
    from data.shards import assemble, begin, drop_receipts

    if int(os.environ.get("RANK", "0")) > 0:
        return
    output = Path(config.output)
    finished = (output / MANIFEST).exists() and not config.overwrite
    if finished and claim(output, config, done=MANIFEST, overwrite=False) == "finished":
        drop_receipts(output)
        say(f"{output}: finished before")
        return
    listing, tasks = _prepared(config)
    claim(output, config, done=MANIFEST, overwrite=config.overwrite)
    for line in _ignored(listing):
        say(line)
    begin(output, [item for task in tasks for item in task.items])
    quarantine = Quarantine(output / QUARANTINE, total=len(listing.items), budget=config.quarantine_budget)
    quarantine.check()
    left = [task for task in tasks if not task.finished]
    done = len(listing.items) - sum(len(task.items) for task in left)
    with Progress(len(listing.items), "shard", done=done) as progress:
        if config.processes == 1 or len(left) == 1:
            _write_here(left, quarantine, progress)
        else:
            _write_in_processes(left, quarantine, config.processes, progress)
    manifest = assemble(output, tasks, listing.classes, quarantine)
    aside = f"; {len(quarantine)} set aside, see {output / QUARANTINE}" if len(quarantine) else ""
    say(f"{output}: {manifest.samples} samples in {len(manifest.shards)} shards{aside}")


def _prepared(config: Config) -> tuple[Listing, list[ShardTask]]:
    """The listing, and the shards that it is cut into; UserError if the source is of no use."""
    from data.ingest import list_source

    source, output = Path(config.source), Path(config.output)
    if source.is_dir() and output.resolve().is_relative_to(source.resolve()):
        raise UserError("output", output, f"a folder outside of the source {source}")
    listing = list_source(source)
    if not config.classes:
        items = tuple(replace(item, label=-1, class_name="") for item in listing.items)
        listing = replace(listing, items=items, classes=())
    return listing, list(_tasks(config, output, _ordered(config, listing.items)))


def _ordered(config: Config, items: tuple[Item, ...]) -> list[Item]:
    from core.draws import permutation

    if not config.shuffle:
        return list(items)
    return [items[k] for k in permutation(config.seed, "shard", (), len(items)).tolist()]


def _tasks(config: Config, output: Path, items: list[Item]) -> Iterator[ShardTask]:
    from data.shards import ShardTask, cut

    for number, (start, stop) in enumerate(cut(items, config.samples_per_shard, config.bytes_per_shard)):
        yield ShardTask(
            folder=output,
            number=number,
            name=f"{config.name}-{number:06d}.tar",
            first=start,
            items=tuple(items[start:stop]),
            limits=config.limits,
            check=config.check,
        )


def _ignored(listing: Listing) -> list[str]:
    found = ", ".join(f"{count} {suffix}" for suffix, count in sorted(listing.ignored.items()))
    return [f"passed over: {found}"] if found else []


def _write_here(tasks: list[ShardTask], quarantine: Quarantine, progress: Progress) -> None:
    from data.shards import write_shard

    for task in tasks:
        write_shard(task, quarantine, progress.advance)


def _write_in_processes(
    tasks: list[ShardTask], quarantine: Quarantine, processes: int, progress: Progress
) -> None:
    from data.shards import write_shard

    context = multiprocessing.get_context("spawn")  # no forked threads of numeric libraries
    with ProcessPoolExecutor(processes, context, initializer=_end_with_parent) as pool:
        futures: dict[Future[None], int] = {
            pool.submit(write_shard, task, quarantine): len(task.items) for task in tasks
        }
        try:
            for future in as_completed(futures):
                future.result()
                progress.advance(futures[future])
        except BrokenProcessPool:
            raise WorkError("a process that wrote shards died (killed, or out of memory)") from None
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _end_with_parent() -> None:
    """Let a worker end when the job is killed; it would wait for work for ever."""
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
