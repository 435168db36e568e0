"""Samples of a measurement, cut into units, whose numbers any number of workers make."""

from __future__ import annotations

import shutil
from abc import abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path

from core.faults.failpoints import failpoint
from core.files import temporaries
from core.progress import say
from core.queue.shared_job import LEASES, SharedJob
from core.run.folder import SCORES
from tools.evaluate.shared.number_parts import NumberParts, Numbers

FOLDER = "parts"  # in the output


class NumberUnits(SharedJob):
    """noun: what is done to samples.  put_together: writes the scores, from the parts."""

    folders: tuple[str, ...] = (FOLDER,)  # that go when the scores are there

    def __init__(
        self, output: Path, noun: str, parts: NumberParts, put_together: Callable[[NumberParts], None]
    ) -> None:
        self.output, self.noun, self.parts, self._put_together = output, noun, parts, put_together
        self.sizes = {unit: len(rows) for unit, rows in parts.units.items()}

    @abstractmethod
    def numbers(self, unit: str) -> Iterator[Numbers]:
        """Yield the numbers of the samples of a unit, some samples at a time."""

    def listed(self) -> set[str]:
        """Return the units whose numbers are there."""
        return self.parts.listed()

    def is_made(self, unit: str) -> bool:
        """Return whether the numbers of a unit are there."""
        return self.parts.path(unit).exists()

    def is_finished(self) -> bool:
        """Return whether the scores are there."""
        return (self.output / SCORES).exists()

    def make(self, unit: str) -> None:
        """Make the numbers of a unit, and store them."""
        made = []
        for each in self.numbers(unit):
            made.append(each)
            failpoint("evaluate.batch")
        self.parts.write(unit, made)

    def remove_unusable(self) -> None:
        """Remove what is no whole part of this job, so that it is made anew."""
        for path, problem in self.parts.unusable().items():
            say(f"{path} is not used: {problem}; it is made again", of_any_rank=True)
            path.unlink(missing_ok=True)

    def publish(self) -> None:
        """Write the scores."""
        failpoint("evaluate.publish")
        self._put_together(self.parts)

    def clear(self) -> None:
        """Remove parts and leases."""
        for left in temporaries(self.output):
            left.unlink(missing_ok=True)
        for name in (*self.folders, LEASES):
            shutil.rmtree(self.output / name, ignore_errors=True)
