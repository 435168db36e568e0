"""The parts of an unfinished sampling job: a file for each range of samples, which records what made it.

`parts/part-FIRST-LAST.npz` holds `arr_0`, the pixels of samples FIRST to LAST, and `made_from`, the hash of
the record that the job keeps to (`tools.sample.sampled_from`). A part is checked whenever it is read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from core.errors import WorkError
from core.files import atomic_file, published
from core.reading.array_files import DamagedArray, open_archive

FOLDER = "parts"
_NAME = re.compile(r"part-(\d{6,18})-(\d{6,18})\.npz")
_SLACK = 4096  # bytes of a member beside its numbers


class DamagedPart(Exception):
    """A part that cannot be used; the text is the reason."""


class IncompleteParts(WorkError):
    """Parts are missing or damaged, so that the samples cannot be put together."""


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

    def write(self, rows: range, pixels: NDArray[np.uint8]) -> None:
        """Publish a part."""
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

    def listed(self) -> tuple[list[range], list[Path]]:
        """Return the ranges that file names promise, by their first sample, and files that are not this
        job's.
        """
        rows, foreign = [], []
        for path in published(self.folder):
            match = _NAME.fullmatch(path.name)
            found = range(int(match[1]), int(match[2]) + 1) if match else range(0)
            is_ours = len(found) > 0 and found.stop <= self.count and self.path(found) == path
            rows.append(found) if is_ours else foreign.append(path)
        return sorted(rows, key=lambda found: (found.start, -found.stop)), foreign

    def together(self) -> NDArray[np.uint8]:
        """Return the pixels of all samples, (count, *shape); IncompleteParts if one is missing or damaged."""
        rows = apart(self.listed()[0])
        if gaps := missing(rows, self.count):
            raise IncompleteParts(f"{self.path(gaps[0])} is missing; the same command makes it")
        pixels = np.empty((self.count, *self.shape), np.uint8)
        for found in rows:
            try:
                pixels[found.start : found.stop] = self.read(found)
            except DamagedPart as problem:
                why = f"{self.path(found)}: {problem}; the same command makes it anew"
                raise IncompleteParts(why) from None
        return pixels


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
