"""Numbers that a network has given samples, stored part by part until a score is known.

`parts/SIDE-FIRST-LAST.npz` holds those of samples FIRST to LAST of one side, fewer where some could not be
read, and `made_from`, the hash of what they depend on. A part is checked whenever it is read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from core.files import atomic_file, published
from core.queue.shared_job import IncompleteParts
from core.reading.array_files import DamagedArray, open_archive
from tools.evaluate.extractors.extractor import FEATURES, Numbers

FOLDER = "parts"  # in the output
MADE, REAL = "made", "real"  # sides
_HASH = 4096  # bytes, more than the array of a hash takes


class DamagedPart(Exception):
    """A part that cannot be used; the text is the reason."""


@dataclass(frozen=True)
class FeatureParts:
    """The place of the parts, and the form that they must have.

    units: samples of each part, by name, in order.  widths: numbers of a sample, by name.
    """

    folder: Path
    made_from: str
    units: Mapping[str, range]
    widths: Mapping[str, int]

    def path(self, unit: str) -> Path:
        """Return the path of a part."""
        return self.folder / f"{unit}.npz"

    def write(self, unit: str, batches: Sequence[Numbers]) -> None:
        """Publish a part."""
        empty = {name: np.empty((0, width), np.float32) for name, width in self.widths.items()}
        whole: dict[str, Any] = {"made_from": np.array(self.made_from)}
        for name in self.widths:
            whole[name] = np.concatenate([each[name] for each in [empty, *batches]])
        with atomic_file(self.path(unit)) as file:
            np.savez(file, **whole)

    def read(self, unit: str) -> dict[str, np.ndarray]:
        """Read a part: (n, D) float32 by name; DamagedPart if it is not what this job wrote."""
        most, found = len(self.units[unit]), {}
        try:
            with open_archive(self.path(unit)) as archive:
                made_from = str(archive.read("made_from", _HASH))
                if made_from != self.made_from:
                    raise DamagedPart(f"it was made from {made_from[:12]!r}, not {self.made_from[:12]!r}")
                for name, width in self.widths.items():
                    found[name] = archive.read(name, 4 * most * width)
        except DamagedArray as error:
            raise DamagedPart(f"it is {error}") from None
        count = len(found[FEATURES]) if found[FEATURES].ndim else most + 1
        for name, width in self.widths.items():
            if found[name].shape != (count, width) or found[name].dtype != np.float32 or count > most:
                shape = f"{found[name].dtype} {found[name].shape}"
                raise DamagedPart(f"{name} in it is {shape}, not float32 (at most {most}, {width})")
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
            if unit.startswith(side):
                try:
                    yield self.read(unit)
                except DamagedPart as problem:
                    why = f"{self.path(unit)}: {problem}; the same command makes it anew"
                    raise IncompleteParts(why) from None


def cut(sides: Iterable[tuple[str, int]], size: int) -> dict[str, range]:
    """Return units by name, in order.  sides: how many samples each has.  size: of a unit at most."""
    return {
        f"{side}-{start:06d}-{min(start + size, count) - 1:06d}": range(start, min(start + size, count))
        for side, count in sides
        for start in range(0, count, size)
    }
