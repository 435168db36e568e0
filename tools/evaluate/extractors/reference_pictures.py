"""Pictures beside published statistics, as ADM's reference batches have them: `arr_0` in the same npz."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from core.errors import UserError
from core.permutations import permutation
from core.reading.array_files import DamagedArray, open_archive
from tools.evaluate.real_samples import Labels, Pixels

PICTURES, MEAN = "arr_0", "mu"  # in the file


@dataclass(frozen=True)
class ReferencePictures:
    """Pictures of a file, of which at most `most` are seen, at random.  shape: of all, (N, H, W, 3)."""

    path: Path
    shape: tuple[int, ...]
    most: int
    seed: int
    has_statistics: bool

    @cached_property
    def rows(self) -> Labels:
        return np.sort(permutation(self.seed, "reference pictures", (), self.shape[0])[: self.most])

    def some(self, places: range) -> Iterator[Pixels]:
        """Yield the pictures (H, W, 3) at these places of `rows`; UserError where they cannot be read."""
        try:
            with open_archive(self.path) as archive:
                for row in map(int, self.rows[places.start : places.stop]):
                    yield archive.rows(PICTURES, self.shape, np.uint8, range(row, row + 1))[0]
        except DamagedArray as error:
            raise UserError("reference", self.path, f"an npz that can be read; it is {error}") from None


def pictures_of(path: Path, most: int, seed: int) -> ReferencePictures | None:
    """Return the pictures of a reference, None where it has statistics alone.

    UserError where `arr_0` is something else.
    """
    try:
        with open_archive(path) as archive:
            if PICTURES not in archive.names:
                return None
            header = archive.header(PICTURES)
            shape, dtype = header.shape, header.dtype
            has_statistics = MEAN in archive.names
    except DamagedArray as error:
        raise UserError("reference", path, f"an npz ({error})") from None
    if dtype != np.uint8 or len(shape) != 4 or shape[-1] != 3:
        expected = f"an npz whose {PICTURES} are pictures, uint8 (N, H, W, 3), not {dtype} {shape}"
        raise UserError("reference", path, expected)
    return ReferencePictures(path, shape, most, seed, has_statistics)
