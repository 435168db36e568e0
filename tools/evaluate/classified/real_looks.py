"""The real samples of a comparison: workers look at them together, and one then trains the classifier."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from core.errors import WorkError
from core.faults.failpoints import failpoint
from core.permutations import permutation
from tools.evaluate.classified import looks
from tools.evaluate.judge import Judge
from tools.evaluate.real_samples import Pixels, batched
from tools.evaluate.shared.number_parts import PLACE, NumberParts, Numbers, cut, side_of
from tools.evaluate.shared.number_units import NumberUnits
from tools.evaluate.shared.real_side import Real

LOOKS, JUDGE = "looks", "judge.safetensors"  # in the output: what is kept of real samples, the classifier
REAL_IMAGES, REAL_CLIPS, HELDOUT_IMAGES, HELDOUT_CLIPS = "images", "clips", "heldoutimages", "heldoutclips"
UNSEEN = {REAL_IMAGES: HELDOUT_IMAGES, REAL_CLIPS: HELDOUT_CLIPS}
IMAGES, CLIPS = 512, 64  # of a unit
BATCH = 32  # samples that are decoded at once
HELDOUT_SHARE = 0.2  # part of a dataset that has no held-out companion
Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Side:
    """Real samples that were read, in the order in which they count.

    places: of each (n,) among those of `real`.  numbers: what is kept of them, by name.
    """

    real: Real
    places: Rows
    numbers: Mapping[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.places)

    @property
    def labels(self) -> Rows:
        """Labels of the images (n,), -1 for none."""
        return self.real.labels(self.places)

    def frames(self, name: str) -> Tensor:
        """Return frames that are kept, as the classifier sees them."""
        return looks.frames_in(self.numbers[name])

    def pixels(self, rows: Iterable[int]) -> list[Pixels]:
        """Decode some of them anew, by number; WorkError where one cannot be read any more."""
        places = [int(self.places[row]) for row in rows]
        found = [pixels for _, pixels in self.real.placed(places)]
        if len(found) < len(places):
            raise WorkError(f"{self.real.data.folder}: samples that could be read before cannot be read now")
        return found

    def some(self, rows: Rows) -> Side:
        """Return some of them, by number."""
        kept = {name: numbers[rows] for name, numbers in self.numbers.items()}
        return Side(self.real, self.places[rows], kept)


@dataclass(frozen=True)
class Split:
    """Real samples of one kind: what is learned from, and what is held out."""

    train: Side
    heldout: Side


class RealLooks(NumberUnits):
    """Real samples of some sides, cut into units, of which what a comparison needs is kept.

    train: makes the classifier of them.
    """

    def __init__(
        self, output: Path, sides: Mapping[str, Real], made_from: str, train: Callable[[RealLooks], Judge]
    ) -> None:
        self.sides, self._train = sides, train
        units, widths = dict[str, range](), {}
        for name, real in sides.items():
            units |= cut([(name, len(real.rows))], CLIPS if real.shape.is_clip else IMAGES)
            widths[name] = looks.widths_of(real.shape.frames)
        parts = NumberParts(output / LOOKS, made_from, units, widths, looks.WIDE)
        super().__init__(output, "look at real samples", parts, lambda _: None)

    def is_finished(self) -> bool:
        """Return whether the classifier is trained."""
        return (self.output / JUDGE).exists() or super().is_finished()

    def numbers(self, unit: str) -> Iterator[Numbers]:
        """Decode the samples of a unit, and yield what is kept of them."""
        real, rows = self.sides[side_of(unit)], self.parts.units[unit]
        look = looks.of_clips if real.shape.is_clip else looks.of_images
        places: list[int] = []

        def noted() -> Iterator[Pixels]:
            for place, pixels in real.placed(rows):
                places.append(place - rows.start)
                yield pixels

        for pixels in batched(noted(), BATCH):
            yield {PLACE: np.array(places), **look(pixels)}
            places.clear()

    def publish(self) -> None:
        """Train the classifier."""
        failpoint("evaluate.train")
        self._train(self).save(self.output / JUDGE)

    def clear(self) -> None:
        """Leave all to the verdicts, which need it."""

    def side(self, name: str, *kept: str) -> Side:
        """Return the samples of a side, with what is `kept` of them by these names."""
        places, *numbers = self.parts.whole(name, PLACE, *kept)
        found = dict(zip(kept, numbers, strict=True))
        return Side(self.sides[name], places[:, 0].astype(np.int64), found)

    def split(self, name: str, *kept: str) -> Split:
        """Return the samples of a kind, split; without a held-out dataset a random fifth is set aside."""
        own = self.side(name, *kept)
        if (other := UNSEEN[name]) in self.sides:
            return Split(own, self.side(other, *kept))
        order = permutation(own.real.seed, f"held-out {name}", (), len(own))
        count = round(HELDOUT_SHARE * len(own))
        return Split(own.some(order[count:]), own.some(order[:count]))


def sides_of(
    read: Callable[[str, int], Real], *, images: bool, clips: bool, heldout: bool
) -> dict[str, Real]:
    """Return the sides of a comparison.

    read: gives the real samples in "real" or "heldout", of a number of frames: 1, or 0 for that of the clips.
    """
    found = {}
    for name, there, frames in ((REAL_IMAGES, images, 1), (REAL_CLIPS, clips, 0)):
        if there:
            found[name] = read("real", frames)
            if heldout:
                found[UNSEEN[name]] = read("heldout", frames)
    return found
