"""The units of a score by a network: samples of either side, which any number of workers show to it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from core.faults.failpoints import failpoint
from core.files import temporaries
from core.progress import say
from core.queue.shared_job import LEASES, SharedJob
from core.run.folder import SCORES
from data.dataset.index import Dataset
from tools.evaluate.extractors.extractor import Extractor, Pixels
from tools.evaluate.extractors.feature_parts import FOLDER, MADE, REAL, FeatureParts, cut
from tools.evaluate.extractors.reference_pictures import ReferencePictures
from tools.evaluate.real_samples import Labels, Shape, batched, chosen_rows, read_rows
from tools.runs.samples import Samples

IMAGES, CLIPS = 512, 64  # of a unit


@dataclass(frozen=True)
class Real:
    """The real side: a raw dataset, of which at most `most` samples are read.

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
        rows = self.rows[places.start : places.stop]
        for found in read_rows(self.data, rows, self.shape, fps=self.fps, stride=self.stride):
            if found is not None:
                yield found[0] if self.shape.is_clip else found[0][0]


class FeatureUnits(SharedJob):
    """Generated and real samples, cut into units.

    real: None where statistics stand in for it.  batch: samples that the network sees at once.
    made_from: hash of all that features depend on.  put_together: writes the scores, from the parts.
    """

    def __init__(
        self,
        output: Path,
        extractor: Extractor,
        samples: Samples,
        real: Real | ReferencePictures | None,
        batch: int,
        made_from: str,
        put_together: Callable[[FeatureParts], None],
    ) -> None:
        self.output, self.noun = output, "see clips" if extractor.of_clips else "see images"
        self._extractor, self._samples, self._real, self._batch = extractor, samples, real, batch
        sides = [(MADE, samples.count), *([(REAL, len(real.rows))] if real is not None else [])]
        units = cut(sides, CLIPS if extractor.of_clips else IMAGES)
        self.parts = FeatureParts(output / FOLDER, made_from, units, extractor.widths)
        self.sizes = {unit: len(rows) for unit, rows in units.items()}
        self._put_together = put_together

    def listed(self) -> set[str]:
        """Return the units whose features are there."""
        return self.parts.listed()

    def is_made(self, unit: str) -> bool:
        """Return whether the features of a unit are there."""
        return self.parts.path(unit).exists()

    def is_finished(self) -> bool:
        """Return whether the scores are there."""
        return (self.output / SCORES).exists()

    def make(self, unit: str) -> None:
        """Show the samples of a unit to the network, and store its numbers."""
        made = []
        for pixels in self._pixels(unit):
            made.append(self._extractor.numbers(pixels))
            failpoint("evaluate.batch")
        self.parts.write(unit, made)

    def remove_unusable(self) -> None:
        """Remove what is no whole part of this job, so that it is made anew."""
        for path, problem in self.parts.unusable().items():
            say(f"{path} is not used: {problem}; it is made anew", of_any_rank=True)
            path.unlink(missing_ok=True)

    def publish(self) -> None:
        """Write the scores."""
        failpoint("evaluate.publish")
        self._put_together(self.parts)

    def clear(self) -> None:
        """Remove parts and leases."""
        for left in temporaries(self.output):
            left.unlink(missing_ok=True)
        for name in (FOLDER, LEASES):
            shutil.rmtree(self.output / name, ignore_errors=True)

    def _pixels(self, unit: str) -> Iterator[Pixels]:
        """Yield the samples of a unit, batch by batch."""
        rows = self.parts.units[unit]
        if self._real is not None and unit.startswith(REAL):
            yield from batched(self._real.some(rows), self._batch)
            return
        for start in range(rows.start, rows.stop, self._batch):
            yield self._samples.some(range(start, min(start + self._batch, rows.stop)))
