"""The units of a score by a network: samples of either side, which any number of workers show to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from tools.evaluate.extractors.extractor import Extractor, Pixels
from tools.evaluate.extractors.reference_pictures import ReferencePictures
from tools.evaluate.real_samples import batched
from tools.evaluate.shared.number_parts import MADE, REAL, NumberParts, Numbers, cut, side_of
from tools.evaluate.shared.number_units import FOLDER, NumberUnits
from tools.evaluate.shared.real_side import Real
from tools.runs.samples import Samples

IMAGES, CLIPS = 512, 64  # of a unit


class FeatureUnits(NumberUnits):
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
        put_together: Callable[[NumberParts], None],
    ) -> None:
        self._extractor, self._samples, self._real, self._batch = extractor, samples, real, batch
        sides = [(MADE, samples.count), *([(REAL, len(real.rows))] if real is not None else [])]
        units = cut(sides, CLIPS if extractor.of_clips else IMAGES)
        widths = dict.fromkeys((MADE, REAL), extractor.widths)
        parts = NumberParts(output / FOLDER, made_from, units, widths)
        super().__init__(output, "see clips" if extractor.of_clips else "see images", parts, put_together)

    def numbers(self, unit: str) -> Iterator[Numbers]:
        """Show the samples of a unit to the network."""
        for pixels in self._pixels(unit):
            yield self._extractor.numbers(pixels)

    def _pixels(self, unit: str) -> Iterator[Pixels]:
        """Yield the samples of a unit, batch by batch."""
        rows = self.parts.units[unit]
        if self._real is not None and side_of(unit) == REAL:
            yield from batched(self._real.some(rows), self._batch)
            return
        for start in range(rows.start, rows.stop, self._batch):
            yield self._samples.some(range(start, min(start + self._batch, rows.stop)))
