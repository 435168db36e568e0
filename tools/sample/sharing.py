"""The units of a sampling job: ranges of samples, which any number of workers generate; one publishes."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

from core.faults.broken_device import naming_device
from core.faults.failpoints import failpoint
from core.files import temporaries
from core.progress import say
from core.queue.shared_job import LEASES, SharedJob
from core.run.folder import SAMPLES
from tools.sample import parts as sample_parts
from tools.sample.batches import Job
from tools.sample.parts import Store
from tools.sample.units import agreed_size, cut, unusable


def is_finished(output: Path) -> bool:
    """Return whether the samples are published."""
    return (output / SAMPLES).exists()


def clear(output: Path, folders: Iterable[Path] = ()) -> None:
    """Remove what only unfinished samples need, and what killed workers left.

    folders: further ones that hold files of samples.
    """
    for folder in {output, *folders}:
        for left in temporaries(folder):
            left.unlink(missing_ok=True)
    for name in (sample_parts.FOLDER, LEASES):
        shutil.rmtree(output / name, ignore_errors=True)


class SampledUnits(SharedJob):
    """The samples of a job, cut into units.  put_together: publishes them, once all parts are there."""

    noun = "sample"

    def __init__(self, job: Job, parts: Store, put_together: Callable[[], None]) -> None:
        self.job, self.parts, self._put_together = job, parts, put_together
        self.output = Path(job.making.output)
        size = agreed_size(self.output / LEASES, parts, job.making.batch)
        self.units = cut(job.schedule.stretches, size)
        self.sizes = {unit: len(rows) for unit, rows in self.units.items()}
        self.largest: dict[int, int] = {}  # samples of a unit of each form
        for rows in self.units.values():
            form = job.form_at(rows)
            self.largest[form] = max(self.largest.get(form, 0), len(rows))

    def listed(self) -> set[str]:
        """Return the units that are generated."""
        names = {rows: unit for unit, rows in self.units.items()}
        return {names[rows] for rows in self.parts.listed()[0] if rows in names}

    def is_made(self, unit: str) -> bool:
        """Return whether the samples of a unit are generated."""
        return self.parts.path(self.units[unit]).exists()

    def is_finished(self) -> bool:
        """Return whether the samples are published."""
        return is_finished(self.output)

    def make(self, unit: str) -> Callable[[], None]:
        """Make a unit's latents; return what decodes and writes them, beside the next unit's."""
        rows = self.units[unit]
        made = self.job.make(rows, self.largest[self.job.form_at(rows)])

        def write() -> None:
            with naming_device():
                failpoint("sample.write")
                self.parts.write(rows, self.job.decoded(made))

        return write

    def remove_unusable(self) -> None:
        """Remove what is no whole part of this job, so that it is made anew."""
        for path, problem in unusable(self.parts, self.units).items():
            say(f"{path} is not used: {problem}; its samples are made again", of_any_rank=True)
            path.unlink(missing_ok=True)

    def publish(self) -> None:
        """Publish the samples."""
        failpoint("sample.publish")
        self._put_together()

    def clear(self) -> None:
        """Remove parts and leases."""
        clear(self.output, self.job.folders)

    def shown(self, unit: str) -> str:
        """Return a unit as people call it."""
        return shown(unit)


def shown(unit: str) -> str:
    """Return a unit as people call it."""
    numbers = re.fullmatch(r"(\d+)-(\d+)", unit)
    return f"samples {int(numbers[1])} to {int(numbers[2])}" if numbers else unit
