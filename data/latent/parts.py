"""The tars of a latent cache, opened when first needed; ranges are copied from them into a batch."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
import torch
from torch import Tensor

from core.errors import WorkError
from core.files import published_names, regular
from core.reading.maps import map_file
from core.reading.open_files import MAPS, Kept, KeptFiles, OpenFile
from core.reading.shared_work import shared
from data.dataset.manifest import DatasetManifest
from data.dataset.shared.shard_table import bytes_of, names_of
from data.dataset.tars import read_into

_READ_BYTES = 1 << 17  # from here on a system call costs less than what mapped pages cost
PIECE_BYTES = 1 << 20  # that are looked at while they still lie in a core's cache

OPEN_RUNS = 8  # files that are held open at once

Seen = Callable[[np.ndarray], None]
"""Takes bytes as they are copied, (bytes,) uint8 of whole values of at most 8 bytes; by several threads."""


class _MappedPart(NamedTuple):
    """The bytes of a part, (bytes,) uint8, and its windows by size, (offsets, size)."""

    bytes: Tensor
    windows: dict[int, Tensor]


class _Piece(NamedTuple):
    """Bytes to be read: from where in which part, and into what, (bytes,) uint8."""

    number: int
    file: OpenFile
    at: int
    into: np.ndarray


class Parts:
    """The parts of a cache by number, and ranges of equal size copied from them.

    open_part: opens the part with a number, in place of those in `folder` (a cache behind a URL).
    WorkError at once if a part is not in the folder. Not for several threads at once. What is open or mapped
    stays so within the budget of the process (`core.reading.open_files`).
    """

    def __init__(
        self,
        folder: Path,
        manifest: DatasetManifest,
        open_part: Callable[[int], IO[bytes]] | None = None,
    ) -> None:
        self.folder, self.manifest = folder, manifest
        self._open_part = open_part or self._open_in_folder
        self.lengths = bytes_of(manifest.shards)  # in bytes, of each part
        self._files = KeptFiles()
        self._mapped: Kept[_MappedPart] = Kept(MAPS)
        if open_part is None:  # else who gives it has looked
            missing = set(names_of(manifest.shards)).difference(published_names(folder))
            if missing:
                raise WorkError(f"{folder / min(missing)}: missing, as are {len(missing) - 1} other parts")

    def copy(self, parts: np.ndarray, offsets: np.ndarray, out: Tensor, seen: Seen | None = None) -> None:
        """Fill out (n, size) uint8 with `size` bytes at offsets (n,) int64 of parts (n,) int64.

        Small ranges come from mapped parts, large ones by system calls: these fetch a range
        from a file server at once, and fault on no page. Fastest where ranges of one part stand together, in
        order. seen: is called with all of `out`, piece by piece: with those of large ranges right after they
        are read, when they need not come from memory once more.
        WorkError names a part that is cut off, or that the ranges do not fit.
        """
        if (parts >= len(self.lengths)).any():
            raise WorkError(f"{self.folder}: the index names part {parts.max()} of {len(self.lengths)}")
        outside = (offsets < 0) | (offsets > self.lengths[parts] - out.shape[1])
        if outside.any():
            name = self.manifest.shards[parts[outside][0]].name
            raise WorkError(f"{self.folder / name}: the index points behind its end")
        if not len(parts):
            return
        if out.shape[1] >= _READ_BYTES:
            self.read(parts, offsets, out, seen)
        else:
            self.select(parts, offsets, out)
            if seen is not None:
                flat = out.numpy().reshape(-1)
                for start in range(0, len(flat), PIECE_BYTES):
                    seen(flat[start : start + PIECE_BYTES])

    def select(self, parts: np.ndarray, offsets: np.ndarray, out: Tensor) -> None:
        """Copy from mapped parts, a gather for each run of ranges of one part: the plain twin of `read`."""
        edges = _edges(parts[1:] != parts[:-1], len(parts))
        counts = [stop - start for start, stop in itertools.pairwise(edges)]
        pieces = zip(torch.from_numpy(offsets).split(counts), out.split(counts), strict=True)
        for start, (here, there) in zip(edges, pieces, strict=False):
            torch.index_select(self._windows(int(parts[start]), out.shape[1]), 0, here, out=there)

    def read(self, parts: np.ndarray, offsets: np.ndarray, out: Tensor, seen: Seen | None = None) -> None:
        """Do what `copy` does by system calls: one for each run of ranges that are adjacent in a part.

        Where the bytes are looked at, one for each piece of a run. The threads of torch share them, and each
        looks at what it read.
        """
        size = out.shape[1]
        flat = out.numpy().reshape(-1)
        apart = (parts[1:] != parts[:-1]) | (offsets[1:] - offsets[:-1] != size)
        runs = list(itertools.pairwise(_edges(apart, len(parts))))
        for first in range(0, len(runs), OPEN_RUNS):
            pieces: list[_Piece] = []
            for start, stop in runs[first : first + OPEN_RUNS]:
                number, at = int(parts[start]), int(offsets[start])
                file = self._files.get(number, self._open)  # held by its pieces while they are read
                wanted = flat[start * size : stop * size]
                step = PIECE_BYTES if seen else len(wanted)
                pieces += (
                    _Piece(number, file, at + k, wanted[k : k + step]) for k in range(0, len(wanted), step)
                )
            shared(pieces, lambda piece: self._read_piece(piece, seen))

    def _read_piece(self, piece: _Piece, seen: Seen | None) -> None:
        if read_into(piece.file.fileno(), piece.into.data, piece.at) < len(piece.into):
            name = self.manifest.shards[piece.number].name
            raise WorkError(f"{self.folder / name}: cut off since it was opened")
        if seen is not None:
            seen(piece.into)

    def _windows(self, number: int, size: int) -> Tensor:
        """View a mapped part as (offsets, size): the bytes from every offset on."""
        part = self._mapped.get(number, self._map)
        if (windows := part.windows.get(size)) is None:
            part.windows[size] = windows = part.bytes.as_strided((len(part.bytes) - size + 1, size), (1, 1))
        return windows

    def mapped(self, number: int) -> Tensor:
        """Return the bytes of a part, (bytes,) uint8, mapped; what is read stays in the page cache."""
        return self._mapped.get(number, self._map).bytes

    def _map(self, number: int) -> _MappedPart:
        with self._open(number) as file:
            # A private map: torch wants writable memory, and nothing writes.
            return _MappedPart(torch.from_numpy(map_file(file, writable=True)), {})

    def _open(self, number: int) -> IO[bytes]:
        file, record = self._open_part(number), self.manifest.shards[number]
        if (size := os.fstat(file.fileno()).st_size) != record.bytes:
            file.close()
            name = self.folder / record.name
            raise WorkError(f"{name}: has {size} bytes, the manifest says {record.bytes}")
        return file

    def _open_in_folder(self, number: int) -> IO[bytes]:
        path = self.folder / self.manifest.shards[number].name
        return open(path, "rb", buffering=0, opener=regular)


def _edges(breaks: np.ndarray, count: int) -> list[int]:
    """Return the starts of runs, and the end: 0, each i for which breaks[i - 1], and `count`."""
    return [0, *(np.flatnonzero(breaks) + 1).tolist(), count]
