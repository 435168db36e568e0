"""Numbers of samples, such as what a network gives for them, stored part by part until a score is known.

`SIDE-FIRST-LAST.npz` holds those of samples FIRST to LAST of one side, fewer where some could not be read,
and `made_from`, the hash of what they depend on. A part is checked whenever it is read.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from core.files import atomic_file, published
from core.queue.shared_job import IncompleteParts
from core.reading.array_files import DamagedArray, open_archive

Numbers = Mapping[str, np.ndarray]
Widths = Mapping[str, int]
MADE, REAL = "made", "real"  # sides
PLACE = "place"  # of samples that were read, in their unit, where a job needs to know which they are
_HASH = 4096  # bytes, more than the array of a hash takes


class DamagedPart(Exception):
    """A part that cannot be used; the text is the reason."""


@dataclass(frozen=True)
class NumberParts:
    """The place of the parts, and the form that they must have.

    units: samples of each part, by name, in order.  widths: numbers of a sample, by side and name.
    wide: names of those that are float64; others are float32.
    """

    folder: Path
    made_from: str
    units: Mapping[str, range]
    widths: Mapping[str, Widths]
    wide: frozenset[str] = frozenset()

    def path(self, unit: str) -> Path:
        """Return the path of a part."""
        return self.folder / f"{unit}.npz"

    def write(self, unit: str, batches: Sequence[Numbers]) -> None:
        """Publish a part."""
        whole: dict[str, Any] = {"made_from": np.array(self.made_from)}
        for name, width in self._widths(unit).items():
            dtype = self._dtype(name)
            rows = [np.asarray(each[name], dtype).reshape(-1, width) for each in batches]
            whole[name] = np.concatenate([np.empty((0, width), dtype), *rows])
        with atomic_file(self.path(unit)) as file:
            np.savez(file, **whole)

    def read(self, unit: str, names: Collection[str] = ()) -> dict[str, np.ndarray]:
        """Read a part: (n, D) by name; DamagedPart if it is not what this job wrote.

        names: of what is read; () is all.
        """
        most, found = len(self.units[unit]), dict[str, np.ndarray]()
        widths = {name: width for name, width in self._widths(unit).items() if name in (names or (name,))}
        try:
            with open_archive(self.path(unit)) as archive:
                made_from = str(archive.read("made_from", _HASH))
                if made_from != self.made_from:
                    raise DamagedPart(f"it was made from {made_from[:12]!r}, not {self.made_from[:12]!r}")
                for name, width in widths.items():
                    found[name] = archive.read(name, self._dtype(name).itemsize * most * width)
        except DamagedArray as error:
            raise DamagedPart(f"it is {error}") from None
        first = next(iter(found.values()))
        count = len(first) if first.ndim else most + 1
        for name, width in widths.items():
            dtype = self._dtype(name)
            if found[name].shape != (count, width) or found[name].dtype != dtype or count > most:
                shape = f"{found[name].dtype} {found[name].shape}"
                raise DamagedPart(f"{name} in it is {shape}, not {dtype} (at most {most}, {width})")
        return found

    def listed(self) -> set[str]:
        """Return the units whose files are there."""
        return {path.stem for path in published(self.folder) if path.stem in self.units}

    def unusable(self) -> dict[Path, str]:
        """Return the files that cannot be used, and why; all parts are read."""
        found = {}
        for path in published(self.folder):
            try:
                if path.stem not in self.units or path != self.path(path.stem):
                    raise DamagedPart("its name is not one of a part of this job")
                self.read(path.stem)
            except DamagedPart as problem:
                found[path] = str(problem)
        return found

    def of(self, side: str) -> Iterator[dict[str, np.ndarray]]:
        """Yield the parts of a side in order; IncompleteParts where one is missing or damaged."""
        for unit in self.units:
            if side_of(unit) == side:
                yield self.require(unit)

    def require(self, unit: str, names: Collection[str] = ()) -> dict[str, np.ndarray]:
        """Read a part, or some of it; IncompleteParts where it is missing or damaged."""
        try:
            return self.read(unit, names)
        except DamagedPart as problem:
            why = f"{self.path(unit)}: {problem}; the same command makes it anew"
            raise IncompleteParts(why) from None

    def whole(self, side: str, *names: str) -> tuple[np.ndarray, ...]:
        """Return numbers of all samples of a side, (N, D) for each name; IncompleteParts likewise.

        PLACE becomes the place among all samples of the side.
        """
        rows: list[list[np.ndarray]] = [[] for _ in names]
        for unit in self.units:
            if side_of(unit) == side:
                part = self.require(unit, names)
                if PLACE in part:
                    part[PLACE] = part[PLACE] + self.units[unit].start
                for found, name in zip(rows, names, strict=True):
                    found.append(part[name])
        none = ((np.empty((0, self.widths[side][name]), self._dtype(name))) for name in names)
        return tuple(np.concatenate([empty, *each]) for empty, each in zip(none, rows, strict=True))

    def _widths(self, unit: str) -> Widths:
        return self.widths[side_of(unit)]

    def _dtype(self, name: str) -> np.dtype[Any]:
        return np.dtype(np.float64 if name in self.wide else np.float32)


def side_of(unit: str) -> str:
    """Return the side that a unit is of."""
    return unit.split("-", 1)[0]


def cut(sides: Iterable[tuple[str, int]], size: int) -> dict[str, range]:
    """Return units by name, in order.  sides: how many samples each has.  size: of a unit at most."""
    return {
        f"{side}-{start:06d}-{min(start + size, count) - 1:06d}": range(start, min(start + size, count))
        for side, count in sides
        for start in range(0, count, size)
    }
