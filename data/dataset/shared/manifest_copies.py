"""Copies of large manifests in the cache folder, mapped by all processes that open the dataset.

To parse and check the `dataset.json` of 100,000 shards takes 0.6 s and 90 MB, and every rank of a node would
do so at once. So the first of them parses and leaves the shards as columns, in a folder named by the SHA-256
of the file that they come from; the others wait for it, and map these.

A copy says nothing that `dataset.json` does not. It is taken only from this user, with the hashes that it was
written with, and made anew where there is none; where none can be kept, each process parses for itself.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from core.errors import UserError, WorkError
from core.files import atomic_folder, published, read_bytes, sealed, sha256_file, write_json
from core.progress import say
from core.reading import json_files
from core.reading.array_files import mapped
from core.root import cache_folder
from data.dataset.shared.shard_table import CountTable, ShardRecord, ShardTable, arrays_of

LEAST_BYTES = 1 << 20  # of a manifest that is worth a copy: it takes 40 ms to parse
VERSION = 1  # of the form of a copy, and of what is checked before one is kept
KEPT_S = 30 * 86400.0  # without use
FOLDER, REST, LOCK = "manifests", "manifest.json", ".lock"
COLUMNS, NAMES, COUNTS = "shards.npy", "names.npy", "bucket_counts.npy"


class Parsed(NamedTuple):
    """A manifest that was read and checked: the two parts that grow with its shards, and the rest.

    counts: samples of each bucket in each shard, None where it does not say.
    """

    rest: dict[str, Any]
    shards: Sequence[ShardRecord]
    counts: Sequence[Sequence[int]] | None


@dataclass(frozen=True)
class _Rest:
    """The content of REST. hashes: SHA-256 of the arrays beside it."""

    hashes: dict[str, str]
    manifest: dict[str, Any]


def shared(path: Path, parse: Callable[[bytes], Parsed]) -> Parsed:
    """Return what `parse` makes of the bytes of a manifest, by its copy; without one, leave it for others.

    Of processes that ask at once the first parses, and the others wait for its copy.
    """
    digest = sha256_file(path)
    try:
        folder = cache_folder() / FOLDER / str(os.geteuid()) / f"{digest}-{VERSION}"
    except UserError as error:
        _tell(path, str(error))
        return parse(read_bytes(path, json_files.LARGEST))
    if (found := _opened(folder)) is not None:
        return found
    with _turn(folder.with_name(folder.name + LOCK), path) as is_first:
        if (found := _opened(folder)) is not None:
            return found
        data = read_bytes(path, json_files.LARGEST)
        parsed = parse(data)
        if not is_first or hashlib.sha256(data).hexdigest() != digest:  # replaced since it was hashed
            return parsed
        try:
            _keep(folder, parsed)
        except OSError as error:
            _tell(path, str(error))
        return _opened(folder) or parsed


@contextlib.contextmanager
def _turn(lock: Path, path: Path) -> Iterator[bool]:
    """Yield True to the first process that comes, and False to others when it has ended, to all at once.

    False also where files cannot be locked, which is told of the manifest at `path`.
    """
    with contextlib.ExitStack() as stack:
        is_first = False
        try:
            lock.parent.parent.mkdir(parents=True, exist_ok=True)
            lock.parent.mkdir(mode=0o700, exist_ok=True)  # the dataset may be one that others may not read
            file = stack.enter_context(open(lock, "a+b"))
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                is_first = True
            except BlockingIOError:
                fcntl.flock(file, fcntl.LOCK_SH)
        except OSError as error:
            _tell(path, str(error))
        yield is_first


def _tell(path: Path, reason: str) -> None:
    say(f"warning: every process parses {path} for itself, since no copy can be kept: {reason}")


def _keep(folder: Path, parsed: Parsed) -> None:
    """Write a copy, and remove those that have not been opened for KEPT_S."""
    columns = arrays_of(parsed.shards)
    if columns is None:
        return
    arrays = dict(zip((COLUMNS, NAMES), columns, strict=True))
    if parsed.counts is not None:
        arrays[COUNTS] = np.array(parsed.counts, np.uint32).reshape(len(parsed.shards), -1)
    with atomic_folder(folder) as new:
        for name, array in arrays.items():
            np.save(new / name, array)
        hashes = {name: sha256_file(new / name) for name in arrays}
        write_json(new / REST, sealed(json_files.plain(asdict(_Rest(hashes, parsed.rest)))))
    for other in published(folder.parent):
        if time.time() - other.stat().st_mtime > KEPT_S:
            shutil.rmtree(other, ignore_errors=True) if other.is_dir() else other.unlink(missing_ok=True)


def _opened(folder: Path) -> Parsed | None:
    """Map a copy and mark it as used; None where there is none, or it is not as this user wrote it."""
    try:
        if not _is_own(folder / REST):
            return None
        rest = json_files.read_sealed(folder / REST, _Rest)
        arrays = {}
        for name in {COLUMNS, NAMES} | rest.hashes.keys() & {COUNTS}:
            if not _is_own(folder / name) or sha256_file(folder / name) != rest.hashes.get(name):
                raise WorkError(f"{folder / name}: not as it was written")
            arrays[name] = mapped(folder / name)
        shards = ShardTable(arrays[COLUMNS], arrays[NAMES])
        counts = CountTable(arrays[COUNTS]) if COUNTS in arrays else None
        os.utime(folder)
    except FileNotFoundError:  # or removed just now, to be made anew
        return None
    except (OSError, ValueError, WorkError) as error:
        say(f"warning: a copy of a manifest is damaged and is made again: {error}")
        return None
    return Parsed(rest.manifest, shards, counts)


def _is_own(path: Path) -> bool:
    return path.stat(follow_symlinks=False).st_uid == os.geteuid()
