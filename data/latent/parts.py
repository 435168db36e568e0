"""The tars of a latent cache, opened when first needed; ranges are copied from them into a batch."""

from __future__ import annotations

import itertools
import mmap
import os
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import IO, TypeVar

import numpy as np
import torch
from torch import Tensor

from core.errors import WorkError
from core.files import published, regular
from data.dataset.schema import DatasetManifest
from data.dataset.tars import read_into

K = TypeVar("K")
T = TypeVar("T")

_KEPT_PARTS = 128  # mapped, viewed, and open: three times as many file descriptors; a usual limit is 1024
_FEWEST = 2  # of a cache, however many share these
_READ_BYTES = 1 << 17  # from here on a system call costs less than what mapped pages cost


class Parts:
    """The parts of a cache by number, and ranges of equal size copied from them.

    open_part: opens the part with a number, in place of those in `folder` (a cache behind a URL).
    sharers: caches that are read at once, which share the parts that stay open.
    WorkError at once if a part is not in the folder. Not thread-safe.
    """

    def __init__(
        self,
        folder: Path,
        manifest: DatasetManifest,
        open_part: Callable[[int], IO[bytes]] | None = None,
        sharers: int = 1,
    ) -> None:
        self.folder, self.manifest = folder, manifest
        self._open_part = open_part or self._open_in_folder
        self._most = _KEPT_PARTS if sharers == 1 else max(_FEWEST, _KEPT_PARTS // sharers)
        self._bytes = np.array([shard.bytes for shard in manifest.shards], np.int64)
        self._mapped: OrderedDict[int, Tensor] = OrderedDict()
        self._views: OrderedDict[tuple[int, int], Tensor] = OrderedDict()  # keep their parts mapped
        self._files: OrderedDict[int, IO[bytes]] = OrderedDict()
        missing = {shard.name for shard in manifest.shards} - {path.name for path in published(folder)}
        if missing and open_part is None:
            raise WorkError(f"{folder / min(missing)}: missing, as are {len(missing) - 1} other parts")

    def copy(self, parts: np.ndarray, offsets: np.ndarray, out: Tensor) -> None:
        """Fill out (n, size) uint8 with `size` bytes at offsets (n,) int64 of parts (n,) int64.

        Small ranges come from mapped parts, large ones by system calls: these fetch a range
        from a file server at once, and fault on no page. Fastest where ranges of one part stand together, in
        order. WorkError names a part that is cut off, or that the ranges do not fit.
        """
        if (parts >= len(self._bytes)).any():
            raise WorkError(f"{self.folder}: the index names part {parts.max()} of {len(self._bytes)}")
        outside = (offsets < 0) | (offsets > self._bytes[parts] - out.shape[1])
        if outside.any():
            name = self.manifest.shards[parts[outside][0]].name
            raise WorkError(f"{self.folder / name}: the index points behind its end")
        if len(parts):
            (self.read if out.shape[1] >= _READ_BYTES else self.select)(parts, offsets, out)

    def select(self, parts: np.ndarray, offsets: np.ndarray, out: Tensor) -> None:
        """Copy from mapped parts, a gather for each run of ranges of one part: the plain twin of `read`."""
        edges = _edges(parts[1:] != parts[:-1], len(parts))
        counts = [stop - start for start, stop in itertools.pairwise(edges)]
        pieces = zip(torch.from_numpy(offsets).split(counts), out.split(counts), strict=True)
        for start, (here, there) in zip(edges, pieces, strict=False):
            torch.index_select(self._windows(int(parts[start]), out.shape[1]), 0, here, out=there)

    def read(self, parts: np.ndarray, offsets: np.ndarray, out: Tensor) -> None:
        """Do what `copy` does by system calls: one for each run of ranges that are adjacent in a part."""
        size = out.shape[1]
        buffer = out.numpy().data.cast("B")
        apart = (parts[1:] != parts[:-1]) | (offsets[1:] - offsets[:-1] != size)
        edges = _edges(apart, len(parts))
        for start, stop in itertools.pairwise(edges):
            number, wanted = int(parts[start]), buffer[start * size : stop * size]
            if read_into(self._file(number).fileno(), wanted, int(offsets[start])) < len(wanted):
                name = self.manifest.shards[number].name
                raise WorkError(f"{self.folder / name}: cut off since it was opened")

    def _windows(self, number: int, size: int) -> Tensor:
        """Return a view (offsets, size) of a mapped part: the `size` bytes from every offset on."""

        def view(key: tuple[int, int]) -> Tensor:
            mapped = self.mapped(number)
            return mapped.as_strided((len(mapped) - size + 1, size), (1, 1))

        return self._kept(self._views, (number, size), view)

    def mapped(self, number: int) -> Tensor:
        """Map a part, (bytes,) uint8; what is read stays in the page cache."""
        return self._kept(self._mapped, number, self._map)

    def _file(self, number: int) -> IO[bytes]:
        return self._kept(self._files, number, self._open)

    def _map(self, number: int) -> Tensor:
        with self._open(number) as file:
            # A private map: torch wants writable memory, and nothing writes.
            return torch.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY), dtype=torch.uint8)

    def _open(self, number: int) -> IO[bytes]:
        file, record = self._open_part(number), self.manifest.shards[number]
        if (size := os.fstat(file.fileno()).st_size) != record.bytes:
            file.close()
            name = self.folder / record.name
            raise WorkError(f"{name}: has {size} bytes, the manifest says {record.bytes}")
        return file

    def _kept(self, kept: OrderedDict[K, T], key: K, make: Callable[[K], T]) -> T:
        """Return the value of this key, made if absent; the least recently used one is dropped for it."""
        if key not in kept:
            kept[key] = make(key)
            if len(kept) > self._most:
                kept.popitem(last=False)
        kept.move_to_end(key)
        return kept[key]

    def _open_in_folder(self, number: int) -> IO[bytes]:
        path = self.folder / self.manifest.shards[number].name
        return open(path, "rb", buffering=0, opener=regular)


def _edges(breaks: np.ndarray, count: int) -> list[int]:
    """Return the starts of runs, and the end: 0, each i for which breaks[i - 1], and `count`."""
    return [0, *(np.flatnonzero(breaks) + 1).tolist(), count]
