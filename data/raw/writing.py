"""Write raw shards: samples of a listing into tars as webdataset writes them, one whole shard at a time.

Which samples make up a shard follows from the listing alone, so shards can be written by any process in any
order. A finished shard leaves a receipt with its rows of the index; when all receipts are there, `assemble`
makes the dataset of them. A killed job continues at the first shard without a receipt, and ends with the
same bytes as one that was never disturbed.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np

from core.errors import WorkError
from core.faults.failpoints import failpoint, set_step
from core.files import atomic_file, sealed, write_text
from core.progress import counted
from core.reading import json_files
from core.reading.json_files import Malformed
from data.dataset.faults import Fault, attempt, keep_traceback
from data.dataset.manifest import DatasetManifest
from data.dataset.media_rows import media_row
from data.dataset.quarantine import Quarantine, QuarantineEntry
from data.dataset.schema import write_index
from data.dataset.shared.shard_table import ShardRecord
from data.media import images
from data.media.colour import ColourMode
from data.media.formats import Media, MediaLimits, suffix_of
from data.raw.item import Item
from data.raw.item_store import sizes_of
from data.raw.raw_index import Receipt, add_counts, count_found, index_rows, raw_manifest
from data.raw.unfinished import RECEIPTS, drop_receipts

Check = Literal["decode", "header"]


@dataclass(frozen=True, kw_only=True)
class ShardTask:
    """One shard to write. first: number of its first item, which the keys continue."""

    folder: Path
    number: int
    name: str
    first: int
    items: Sequence[Item]
    limits: MediaLimits
    check: Check
    colour: ColourMode = "convert"

    @property
    def receipt(self) -> Path:
        """Path of the receipt of the finished shard."""
        return self.folder / RECEIPTS / f"{self.number:06d}.json"

    @property
    def finished(self) -> bool:
        """Whether the shard exists as its receipt says."""
        if not self.receipt.exists():
            return False
        receipt = json_files.read_sealed(self.receipt, Receipt)
        if "found" not in receipt:  # written by an earlier version, by other media rules
            return False
        record, tar = receipt["record"], self.folder / self.name
        if record.name != self.name or record.samples != len(receipt["rows"]):
            raise Malformed(f"{self.receipt}: not of the {counted(record.samples, 'sample')} of {self.name}")
        return tar.stat().st_size == record.bytes if tar.exists() else record.samples == 0


def cut(items: Sequence[Item], samples: int, size: int) -> Iterator[tuple[int, int]]:
    """Yield (start, stop) of each shard's items: at most `samples`, at most `size` bytes unless one item."""
    start, total = 0, 0
    for number, packed in enumerate(sizes_of(items)):
        if number > start and (number - start == samples or total + packed > size):
            yield start, number
            start, total = number, 0
        total += packed
    if items:
        yield start, len(items)


def write_shard(task: ShardTask, quarantine: Quarantine, advance: Callable[[], None] = lambda: None) -> None:
    """Write and publish one tar, then its receipt; unusable samples go to `quarantine`.

    WorkError if that exceeds its budget; OSError if the tar cannot be written. The tar's name is never taken
    by anything but the whole tar.
    """
    set_step(task.number)
    rows: list[list[Any]] = []
    texts = captions = 0
    found: list[Mapping[str, str]] = []
    refused: list[QuarantineEntry] = []
    with atomic_file(task.folder / task.name) as file:
        out: Any = _HashedFile(file)  # tarfile types what it writes to as a file that it also closes
        with tarfile.open(fileobj=out, mode="w|") as tar:
            for number, item in enumerate(task.items, task.first):
                failpoint("shard.sample")
                made = _sample(item, task)
                if isinstance(made, Fault):
                    keep_traceback(task.folder, item.name, made)
                    refused.append(quarantine.add(item.name, made.stage, made.error))
                else:
                    facts, members = made
                    texts += bool(item.text)
                    captions += len(item.more.get("texts", ())) or bool(item.text)
                    found.append(facts.found)
                    offset = tar.offset
                    add_sample(tar, f"{number:09d}", members)
                    rows.append([offset, tar.offset - offset, item.label, *media_row(facts)])
                advance()
        failpoint("shard.publish")
    if not rows:
        (task.folder / task.name).unlink()
    record = ShardRecord(name=task.name, samples=len(rows), bytes=out.bytes, sha256=out.hash.hexdigest())
    content = {
        "record": asdict(record),
        "rows": rows,
        "texts": texts,
        "captions": captions,
        "found": count_found(found),
        "refused": [asdict(e) for e in refused],
    }
    failpoint("shard.receipt")
    write_text(task.receipt, json.dumps(sealed(content), sort_keys=True))


class _HashedFile:
    """A file to write to that knows the length and SHA-256 of what it got."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.hash, self.bytes = file, hashlib.sha256(), 0

    def write(self, data: bytes) -> int:
        self.hash.update(data)
        self.bytes += len(data)
        return self.file.write(data)


def add_sample(tar: tarfile.TarFile, key: str, members: Mapping[str, bytes]) -> None:
    """Add a sample's members, by suffix, to a tar opened with mode "w|".

    The bytes are those of the plain twin, `webdataset.TarWriter(file, encoder=False, mtime=0, user="",
    group="", mode=0o644)`, whose module imports torch: two seconds.
    """
    for suffix, data in sorted(members.items()):
        info = tarfile.TarInfo(f"{key}.{suffix}")
        info.size, info.mode = len(data), 0o644
        tar.addfile(info, io.BytesIO(data))


def _sample(item: Item, task: ShardTask) -> Fault | tuple[Media, dict[str, bytes]]:
    """Return what an item shows and the members to write, or why it cannot be used."""
    if item.refused is not None:
        return Fault(*item.refused)
    data = attempt(lambda: item.read(task.limits), "read", item.name)
    if isinstance(data, Fault):
        return data
    look = images.check if task.check == "decode" else partial(images.probe, fields=True)
    facts = attempt(lambda: look(data, task.limits, colour=task.colour), "decode", item.name)
    if isinstance(facts, Fault):
        return facts
    description = {
        "label": item.label if item.label >= 0 else None,
        "class": item.class_name or None,
        "text": item.text,
        **facts.described(),
        "source": item.name,
        **item.more,
    }
    text = json.dumps(description, sort_keys=True, ensure_ascii=False)
    return facts, {suffix_of(data): data, "json": text.encode()}


def assemble(
    folder: Path,
    tasks: Sequence[ShardTask],
    classes: Sequence[str],
    quarantine: Quarantine,
    colour: ColourMode = "convert",
) -> DatasetManifest:
    """Make index, quarantine list and manifest from the receipts, then drop them: the dataset is complete.

    WorkError if no sample could be used, or more were set aside than may be.
    """
    quarantine.require_within_budget()
    shards: list[ShardRecord] = []
    refused: list[QuarantineEntry] = []
    tables: list[tuple[np.ndarray, np.ndarray]] = []
    texts, captions, found = 0, 0, []
    for task in tasks:
        receipt = json_files.read_sealed(task.receipt, Receipt)
        refused += receipt["refused"]
        if receipt["rows"]:
            tables.append(index_rows(len(shards), receipt["rows"]))
            shards.append(receipt["record"])
            texts += receipt.get("texts", 0)
            captions += receipt.get("captions", receipt.get("texts", 0))
            found.append(receipt.get("found", {}))
    if not shards:
        why = f"{refused[0].id}: {refused[0].error}"
        raise WorkError(f"none of {counted(len(refused), 'sample')} could be used; the first: {why}")
    index, facts = (np.concatenate(part) for part in zip(*tables, strict=True))
    index["id"] = np.arange(len(index))
    files = write_index(folder, index, facts)
    quarantine.rewrite(refused)
    counts = add_counts(found)
    manifest = raw_manifest(tuple(shards), classes, files, index, texts, counts, colour, captions)
    failpoint("shard.manifest")
    manifest.write(folder)
    drop_receipts(folder)
    return manifest
