"""Check that every file of a dataset is as it was written, by its hash and by the structure of its tars."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from core.errors import WorkError
from core.files import published, sha256_file
from core.progress import counted
from data.dataset.blocks import open_table
from data.dataset.manifest import DatasetManifest
from data.dataset.schema import INDEX, INDEX_DTYPE, MANIFEST
from data.dataset.shared.shard_table import ShardRecord, bytes_of, names_of
from data.dataset.tars import samples


class Finding(NamedTuple):
    """A difference between one file of a dataset and what was written."""

    name: str
    problem: str

    def __str__(self) -> str:
        return f"{self.name} {self.problem}"


def audit(
    folder: Path, manifest: DatasetManifest, advance: Callable[[], None] = lambda: None
) -> Iterator[Finding]:
    """Hash every file that the manifest names; yield a finding for each that is not as it was written.

    advance: called after every file.
    """
    for shard in manifest.shards:
        if problem := _shard_problem(folder / shard.name, shard):
            yield Finding(shard.name, problem)
        advance()
    for name, digest in manifest.files.items():
        path = folder / name
        if not path.is_file():
            yield Finding(name, "is missing")
        elif sha256_file(path) != digest:
            yield Finding(name, f"has another SHA-256 than {MANIFEST} says")
        advance()
    if (folder / INDEX).is_file() and (problem := _index_problem(folder / INDEX, manifest)):
        yield Finding(INDEX, problem)
    listed = set(names_of(manifest.shards))
    for path in published(folder, "*.tar"):
        if path.name not in listed:
            yield Finding(path.name, f"is not in {MANIFEST}: no sample of it is in the index")


def _shard_problem(path: Path, record: ShardRecord) -> str:
    """Return "" for the tar that was indexed, else what the file is instead."""
    if not path.is_file():
        return "is missing"
    if sha256_file(path) == record.sha256:
        return ""
    size = path.stat().st_size
    bytes_then = "" if size == record.bytes else f" ({size} bytes, {record.bytes} when it was indexed)"
    try:
        count = sum(1 for _ in samples(path))
        what = f"a whole tar of {counted(count, 'sample')}, but not the one that was indexed"
    except WorkError as error:
        what = str(error).removeprefix(f"{path}: ")
    return f"has another SHA-256 than {MANIFEST} says{bytes_then}: {what}"


def _index_problem(path: Path, manifest: DatasetManifest) -> str:
    try:
        index = np.asarray(open_table(path, INDEX_DTYPE, manifest.samples, "", "is not readable"))
    except WorkError as error:
        return str(error).removeprefix(f"{path}: ")
    sizes = bytes_of(manifest.shards).astype(np.uint64)
    inside = index["shard"] < len(sizes)
    ends = index["offset"] + index["size"]
    if not inside.all() or (ends > sizes[index["shard"]]).any():
        return "points outside of the shards"
    return ""
