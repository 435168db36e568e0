"""The parts of an unfinished sampling job: a file for each range of samples, which records what made it.

`parts/part-FIRST-LAST.npz` holds `arr_0`, the pixels of samples FIRST to LAST, and `made_from`, the hash of
the record that the job keeps to (`tools.sample.record.describing`). A part is checked whenever it is read.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from core.files import atomic_file, published
from core.queue.shared_job import IncompleteParts
from core.reading.array_files import DamagedArray, open_archive

FOLDER = "parts"
_NAME = re.compile(r"part-(\d{6,18})-(\d{6,18})\.(?:npz|json)")
_SLACK = 4096  # bytes of a member beside its numbers


class DamagedPart(Exception):
    """A part that cannot be used; the text is the reason."""


class Decoded(NamedTuple):
    """Samples as they are published.

    pixels: (B, [T,] H, W, 3).  latents: (B, C, T, H, W) float32, if they are asked for.
    """

    pixels: NDArray[np.uint8]
    latents: Tensor | None = None


class Store(Protocol):
    """The interface of a job's parts to its workers."""

    @property
    def folder(self) -> Path: ...
    @property
    def count(self) -> int: ...

    def path(self, rows: range) -> Path: ...
    def write(self, rows: range, made: Iterable[Decoded]) -> None: ...
    def check(self, rows: range) -> None: ...
    def listed(self) -> tuple[list[range], list[Path]]: ...


@dataclass(frozen=True)
class Parts:
    """The place of a job's parts, and the form that they must have.

    made_from: hash of what makes them.  count: samples of the job.  shape: of a sample, ([T,] H, W, 3).
    """

    folder: Path
    made_from: str
    count: int
    shape: tuple[int, ...]

    def path(self, rows: range) -> Path:
        """Return the path of a range of samples."""
        return self.folder / f"part-{rows.start:06d}-{rows.stop - 1:06d}.npz"

    def write(self, rows: range, made: Iterable[Decoded]) -> None:
        """Publish a part."""
        pixels = np.concatenate([some.pixels for some in made])
        with atomic_file(self.path(rows)) as file:
            np.savez(file, arr_0=pixels, made_from=np.array(self.made_from))

    def read(self, rows: range) -> NDArray[np.uint8]:
        """Read the pixels of a part, (n, *shape); DamagedPart if it is not what this job wrote."""
        try:
            with open_archive(self.path(rows)) as archive:
                made_from = str(archive.read("made_from", _SLACK))
                if made_from != self.made_from:
                    raise DamagedPart(f"it was made from {made_from[:12]!r}, not {self.made_from[:12]!r}")
                pixels = archive.read("arr_0", len(rows) * int(np.prod(self.shape)))
        except DamagedArray as error:
            raise DamagedPart(f"it is {error}") from None
        expected = (len(rows), *self.shape)
        if pixels.shape != expected or pixels.dtype != np.uint8:
            raise DamagedPart(f"it holds {pixels.dtype} {pixels.shape}, not uint8 {expected}")
        return pixels

    def check(self, rows: range) -> None:
        """Raise DamagedPart unless a part is what this job wrote."""
        self.read(rows)

    def listed(self) -> tuple[list[range], list[Path]]:
        """Return the ranges that parts are named after, and files that are not this job's."""
        return listed_ranges(self)

    def whole(self) -> Iterator[tuple[range, NDArray[np.uint8]]]:
        """Yield the parts in order, so that they hold each sample once; IncompleteParts where one is missing
        or damaged.
        """
        for rows in all_ranges(self):
            with made_anew(self, rows):
                yield rows, self.read(rows)

    def some(self, places: Sequence[int]) -> NDArray[np.uint8]:
        """Return the pixels of the samples at these places, (len(places), *shape)."""
        pixels = np.empty((len(places), *self.shape), np.uint8)
        for rows in all_ranges(self):
            if here := [i for i, place in enumerate(places) if place in rows]:
                with made_anew(self, rows):
                    pixels[here] = self.read(rows)[[places[i] - rows.start for i in here]]
        return pixels


def listed_ranges(parts: Store) -> tuple[list[range], list[Path]]:
    """Return the ranges that file names promise, by their first sample, and files that are not this job's."""
    rows, foreign = [], []
    for path in published(parts.folder):
        match = _NAME.fullmatch(path.name)
        found = range(int(match[1]), int(match[2]) + 1) if match else range(0)
        is_ours = len(found) > 0 and found.stop <= parts.count and parts.path(found) == path
        rows.append(found) if is_ours else foreign.append(path)
    return sorted(rows, key=lambda found: (found.start, -found.stop)), foreign


def all_ranges(parts: Store) -> list[range]:
    """Return ranges that hold each sample once, in order; IncompleteParts where some are missing."""
    rows = apart(parts.listed()[0])
    if gaps := missing(rows, parts.count):
        raise IncompleteParts(f"{parts.path(gaps[0])} is missing; the same command makes it")
    return rows


@contextlib.contextmanager
def made_anew(parts: Store, rows: range) -> Iterator[None]:
    """Turn a damaged part into IncompleteParts, which has it made again."""
    try:
        yield
    except DamagedPart as problem:
        why = f"{parts.path(rows)}: {problem}; the same command makes it anew"
        raise IncompleteParts(why) from None


def apart(rows: Iterable[range]) -> list[range]:
    """Return those ranges, by their first sample, that do not overlap the ones taken before."""
    taken: list[range] = []
    for found in rows:
        if not taken or found.start >= taken[-1].stop:
            taken.append(found)
    return taken


def missing(rows: Iterable[range], count: int) -> list[range]:
    """Return the gaps between ranges that do not overlap, up to `count`."""
    gaps, end = [], 0
    for found in rows:
        gaps.append(range(end, found.start))
        end = found.stop
    return [gap for gap in [*gaps, range(end, count)] if len(gap)]
