"""The real samples of a measurement, any range of which can be read by itself."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from data.dataset.index import Dataset
from tools.evaluate.real_samples import Labels, Pixels, Shape, chosen_rows, read_rows


@dataclass(frozen=True)
class Real:
    """A raw dataset, of which at most `most` samples are read.

    fps, stride: at which clips are read; fps 0 is their own.
    """

    data: Dataset
    shape: Shape
    most: int
    seed: int
    fps: float
    stride: int

    @cached_property
    def rows(self) -> Labels:
        return chosen_rows(self.data, self.shape, self.most, self.seed)

    def some(self, places: range) -> Iterator[Pixels]:
        """Yield the samples at these places of `rows`, without those that cannot be read."""
        for _, pixels in self.placed(places):
            yield pixels

    def placed(self, places: Iterable[int]) -> Iterator[tuple[int, Pixels]]:
        """Yield place and pixels of these samples, without those that cannot be read."""
        chosen = list(places)
        read = read_rows(self.data, self.rows[chosen], self.shape, fps=self.fps, stride=self.stride)
        for place, found in zip(chosen, read, strict=True):
            if found is not None:
                yield place, found[0] if self.shape.is_clip else found[0][0]

    def labels(self, places: Labels) -> Labels:
        """Return the labels of the samples at these places, -1 for none."""
        return np.asarray(self.data.index["label"])[self.rows[places]].astype(np.int64)
