"""Rebuild what is damaged in a cache: parts from their source, tables from the parts."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from core.errors import WorkError
from core.files import fsync_folder, published, sha256_file
from core.progress import Progress, counted, say
from core.queue.config import QueueConfig
from core.queue.work_queue import WorkQueue
from core.reading.json_files import Malformed
from data.dataset.manifest import DatasetManifest
from data.dataset.quarantine import Quarantine
from data.dataset.schema import MANIFEST, QUARANTINE, write_index
from data.latent.encode_job import RECEIPT, Job, part_name, read_receipt
from data.latent.pack_reading import scan_part
from data.raw.unfinished import RECEIPTS
from data.reindexing.from_parts import index_from_parts, sidecars_from_parts
from tools.encode.setup import LEASES, Sharing, Take, start
from tools.encode.shard_parts import encode_shard
from tools.encode.state import damaged, recorded
from tools.encode.volume import report

MAKING = ".repair"  # inside the output: what is made anew, until it is known to be what it was


def plan(output: Path, job: Job) -> list[str]:
    """Say what repair would do; every file is hashed to find out. UserError if there is no cache."""
    records, files = recorded(output)
    found = list(damaged(output, records, files))
    lines = [f"make {name} of {output} again" for name in found]
    if (output / MANIFEST).exists():
        return lines or [f"{output}: nothing is damaged"]
    done = {shard for shard in job.finished() if part_name(shard) not in found}
    left = [shard for shard in range(len(job.dataset.manifest.shards)) if shard not in done]
    return [*lines, "try again what failed, and encode what is left:", *report(job, left)]


def repair_unfinished(output: Path) -> None:
    """Forget damaged parts and failures, so that the queue has them again."""
    for path in published(output / RECEIPTS, RECEIPT):
        try:
            read_receipt(path)
        except Malformed as error:
            say(f"{error}; its part will be encoded again")
            path.unlink()
    records, files = recorded(output)
    for name in damaged(output, records, files):
        shard = int(name.removeprefix("latents-").removesuffix(".tar"))
        say(f"{name} is damaged and will be encoded again")
        (output / RECEIPTS / f"{shard:06d}.json").unlink(missing_ok=True)
        (output / name).unlink(missing_ok=True)
    WorkQueue(output / LEASES, [], QueueConfig(), list_done=set).forget_failures()


def repair_finished(job: Job, made_from: dict[str, Any], sharing: Sharing, take: Take) -> None:
    """Rebuild damaged files.

    Each must come out as the manifest has it, or nothing is replaced.

    WorkError where one does not: on other hardware or with other libraries the encoder rounds otherwise.
    """
    start(job, made_from, sharing, take)  # refuses another config, source or encoder
    output = job.folder
    manifest = DatasetManifest.read(output)
    found = set(damaged(output, *recorded(output)))
    if not found:
        say(f"{output}: nothing is damaged")
        return
    making = output / MAKING
    shutil.rmtree(making, ignore_errors=True)
    quarantine = Quarantine(making / QUARANTINE, total=len(job.dataset), budget=len(job.dataset))
    inside = replace(job, folder=making, quarantine=quarantine)
    try:
        shards = [s for s, record in enumerate(manifest.shards) if record.name in found]
        _remake_parts(inside, shards)
        _publish(output, [part_name(shard) for shard in shards], manifest)
        tables = set(manifest.files) & found - {QUARANTINE}
        if tables:
            _remake_tables(making, output, manifest)
        if QUARANTINE in found:
            _remake_quarantine(inside, output, manifest)
        _publish(output, sorted(tables | found & {QUARANTINE}), manifest)
    finally:
        shutil.rmtree(making, ignore_errors=True)
    say(f"{output}: {', '.join(sorted(found))} made again")


def _remake_parts(inside: Job, shards: Sequence[int]) -> None:
    total = sum(len(inside.rows(shard)) for shard in shards)
    with Progress(total, "repair") as progress:
        for shard in shards:
            encode_shard(inside, shard, progress.advance)


def _remake_tables(making: Path, output: Path, manifest: DatasetManifest) -> None:
    index, _ = index_from_parts(output, manifest.shards)
    made_from = manifest.extra["made_from"]
    sidecars, _ = sidecars_from_parts(output, manifest.shards, index, made_from)
    write_index(making, index, **sidecars)


def _remake_quarantine(inside: Job, output: Path, manifest: DatasetManifest) -> None:
    """Encode again the parts with samples set aside, since only that tells why they were."""
    shards = [
        shard
        for shard, record in enumerate(manifest.shards)
        if any(place.absent for place in scan_part(output / record.name))
    ]
    _remake_parts(inside, [shard for shard in shards if not inside.receipt(shard).exists()])
    receipts = [read_receipt(inside.receipt(shard)) for shard in shards]
    entries = [entry for receipt in receipts for entry in receipt["refused"]]
    inside.quarantine.rewrite(entries)


def _publish(output: Path, names: Sequence[str], manifest: DatasetManifest) -> None:
    expected = {record.name: record.sha256 for record in manifest.shards} | dict(manifest.files)
    for name in names:
        if sha256_file(output / MAKING / name) != expected[name]:
            raise WorkError(
                f"{output / name}: made anew it is not what it was (other hardware or library versions?); "
                "the machine that made it may make it so; overwrite=true removes and encodes all "
                f"{counted(manifest.samples, 'sample')} again"
            )
    for name in names:
        os.replace(output / MAKING / name, output / name)
    fsync_folder(output)
