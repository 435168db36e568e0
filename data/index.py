"""Finished datasets: the mapped index, samples by row, verification; an index made anew from tars."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import IO

import numpy as np

from core.errors import UserError, WorkError
from core.files import sha256_file
from data.captions import read_tar_annotation
from data.formats import DEFAULT_LIMITS, Media, MediaError, MediaLimits
from data.ingest import Item, media_members, with_labels
from data.media import probe
from data.schema import (
    INDEX,
    INDEX_DTYPE,
    MANIFEST,
    MEDIA,
    MEDIA_DTYPE,
    DatasetManifest,
    ShardRecord,
    write_index,
)
from data.shards import index_rows, raw_manifest
from data.tars import TarSample, parse_sample, read_member, read_range, samples

_OPEN_SHARDS = 128  # file descriptors; common limits are 1024 a process


class Dataset:
    """A finished dataset folder, raw or latent.

    Opening reads `dataset.json` and maps the index; it checks that shards and index are there and fit each
    other, not their content (`verify` does). UserError if the folder is no finished dataset, WorkError if
    something is missing or does not fit.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self.manifest = DatasetManifest.read(self.folder)
        names = {entry.name for entry in os.scandir(self.folder)}
        missing = sorted({shard.name for shard in self.manifest.shards} - names)
        if missing:
            raise WorkError(f"{self.folder / missing[0]}: missing ({len(missing)} shards of the dataset are)")
        self.index = self._mapped(INDEX, INDEX_DTYPE)
        self._files: OrderedDict[int, IO[bytes]] = OrderedDict()
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self.index)

    @cached_property
    def media(self) -> np.ndarray:
        """(samples,) MEDIA_DTYPE, row by row beside the index; raw datasets only."""
        return self._mapped(MEDIA, MEDIA_DTYPE)

    def shard_path(self, shard: int) -> Path:
        """The tar with this number."""
        return self.folder / self.manifest.shards[shard].name

    def read(self, row: int) -> dict[str, bytes]:
        """{suffix: content} of the members of a raw sample; safe from several threads.

        WorkError if the shard is not as long as it was, or the index points at something else than a sample.
        """
        entry = self.index[row]
        shard, offset, size = int(entry["shard"]), int(entry["offset"]), int(entry["size"])
        if shard >= len(self.manifest.shards) or offset + size > self.manifest.shards[shard].bytes:
            raise WorkError(f"{self.folder / INDEX}: row {row} points outside of the shards")
        file = self._open(shard)  # held until the bytes are read: others may let go of it meanwhile
        data = read_range(file.fileno(), size, offset)
        try:
            return parse_sample(data)[1]
        except ValueError as error:
            raise WorkError(
                f"{self.shard_path(shard)}: row {row} of the index is no sample: {error}"
            ) from None

    def verify(self, advance: Callable[[], None] = lambda: None) -> None:
        """Hash every file again; WorkError names all that differ. `advance` is called per file."""
        found = list(self._problems(advance))
        if found:
            raise WorkError(f"{len(found)} files are not as they were written: {'; '.join(found)}")

    def _problems(self, advance: Callable[[], None]) -> Iterator[str]:
        expected = {shard.name: shard.sha256 for shard in self.manifest.shards} | dict(self.manifest.files)
        for name, digest in expected.items():
            path = self.folder / name
            if not path.is_file():
                yield f"{name} is missing"
            elif sha256_file(path) != digest:
                yield f"{name} has another SHA-256 than {MANIFEST} says"
            advance()
        ends = self.index["offset"] + self.index["size"]
        sizes = np.array([shard.bytes for shard in self.manifest.shards], np.uint64)
        if (self.index["shard"] >= len(sizes)).any() or (ends > sizes[self.index["shard"]]).any():
            yield f"{INDEX} points outside of the shards"

    def _mapped(self, name: str, dtype: np.dtype) -> np.ndarray:
        path = self.folder / name
        try:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise WorkError(f"{path}: not a readable index ({error})") from None
        if array.dtype != dtype or array.shape != (self.manifest.samples,):
            shape = f"{array.dtype} {array.shape}"
            raise WorkError(f"{path}: {shape} does not fit the {self.manifest.samples} samples of {MANIFEST}")
        return array

    def _open(self, shard: int) -> IO[bytes]:
        """The open file of a shard; the least recently used one is let go when there are too many."""
        with self._lock:
            file = self._files.pop(shard, None)
            if file is None:
                file = open(self.shard_path(shard), "rb", buffering=0)  # noqa: SIM115 (closed when let go)
                size, expected = os.fstat(file.fileno()).st_size, self.manifest.shards[shard].bytes
                if size != expected:
                    file.close()
                    raise WorkError(
                        f"{self.shard_path(shard)}: {size} bytes, but {expected} when it was indexed: "
                        "truncated or replaced"
                    )
            self._files[shard] = file
            if len(self._files) > _OPEN_SHARDS:
                self._files.popitem(last=False)  # another thread that still reads keeps it open
            return file


def reindex(
    folder: Path, limits: MediaLimits = DEFAULT_LIMITS, advance: Callable[[], None] = lambda: None
) -> DatasetManifest:
    """Make `index.npy`, `media.npy` and `dataset.json` of a raw dataset anew from its tars.

    Of tars that `shard` wrote they come out as they were, byte by byte, if no class was without samples;
    tars from elsewhere need one image or video a sample, with its class in `json` or `cls` members.
    UserError if there are no tars or a sample is unusable.
    """
    paths = sorted(path for path in folder.iterdir() if path.suffix == ".tar")
    if not paths:
        raise UserError("source", folder, "a folder with .tar files")
    records: list[ShardRecord] = []
    tables: list[tuple[np.ndarray, np.ndarray]] = []
    items: list[Item] = []
    for number, path in enumerate(paths):
        rows = []
        with open(path, "rb") as file:
            for sample in samples(path):
                item, facts = _indexed(file.fileno(), path, sample, limits)
                items.append(item)
                rows.append((sample.offset, sample.end - sample.offset, -1, *facts))
        if not rows:
            raise UserError(f"{path}: holds no sample")
        tables.append(index_rows(number, rows))
        size, digest = path.stat().st_size, sha256_file(path)
        records.append(ShardRecord(name=path.name, samples=len(rows), bytes=size, sha256=digest))
        advance()
    index, facts_table = (np.concatenate(part) for part in zip(*tables, strict=True))
    labelled, classes = with_labels(items)
    index["id"], index["label"] = np.arange(len(index)), [item.label for item in labelled]
    files = write_index(folder, index, facts_table)
    manifest = raw_manifest(tuple(records), classes, files, index)
    manifest.write(folder)
    return manifest


def _indexed(file: int, path: Path, sample: TarSample, limits: MediaLimits) -> tuple[Item, Media]:
    """Label, class and media facts of one sample in a tar."""
    wanted = media_members(sample)
    try:
        if sample.refused or len(wanted) != 1:
            raise MediaError(sample.refused or f"has {len(wanted)} images or videos, expected 1")
        annotation = read_tar_annotation(file, path, sample)
        if annotation.refused:
            raise MediaError(annotation.refused[1])
        limits.check_bytes(wanted[0].size)
        facts = probe(read_member(file, path, wanted[0]), limits)
    except MediaError as error:
        hint = "`longtake shard` can set such samples aside"
        raise UserError(f"{path}: sample {sample.key!r}: {error} ({hint})") from None
    return Item(sample.key, path, 0, 0, annotation.label, annotation.class_name), facts
