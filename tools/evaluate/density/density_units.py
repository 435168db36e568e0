"""The samples of a latent cache, whose densities any number of workers measure.

A row a sample is written as soon as it is known, so that the same command goes on after a kill; scores.json,
the means, comes last.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from core.faults.failpoints import failpoint
from core.queue import shared_job
from core.queue.config import QueueConfig
from core.queue.shared_job import LEASES, IncompleteParts, SharedJob
from core.records import append_shared
from core.run.folder import SCORES
from data.latent.reading import LatentReader, reader_of
from models.precision import work_alike
from tools.evaluate.density.cache_rows import Rows, batches
from tools.evaluate.density.of_cache import Asked, choose
from tools.evaluate.density.of_samples import of_batch
from tools.evaluate.density.summary import summary

ROWS = "densities.jsonl"  # in the output: a row a sample
SAMPLES = 64  # of a unit, all of one shape


class DensityUnits(SharedJob):
    """Samples cut into units.  kind: "likelihood" or "bound".  publish: takes the content of scores.json."""

    noun = "measure samples"

    def __init__(
        self, asked: Asked, kind: str, output: Path, seed: int, publish: Callable[[dict[str, Any]], None]
    ) -> None:
        self.output, self._asked, self._kind, self._seed = output, asked, kind, seed
        self._put_together, self._ids = publish, asked.cache.index["id"]
        self._chosen = choose(asked.cache, asked.config.count, seed)
        units = list(batches(asked.cache, self._chosen, SAMPLES))
        self._units: dict[str, Rows] = {f"{number:06d}": rows for number, rows in enumerate(units)}
        self.sizes = {unit: len(rows) for unit, rows in self._units.items()}

    @cached_property
    def _reader(self) -> LatentReader:
        return reader_of(self._asked.cache)

    def _measured(self) -> dict[int, dict[str, Any]]:
        return self._asked.measured(self.output / ROWS)

    def _left(self, unit: str, done: dict[int, dict[str, Any]]) -> Rows:
        return np.array([row for row in self._units[unit] if int(self._ids[row]) not in done], np.int64)

    def listed(self) -> set[str]:
        """Return the units of which all samples are measured."""
        done = self._measured()
        return {unit for unit in self._units if not len(self._left(unit, done))}

    def is_made(self, unit: str) -> bool:
        """Return whether all samples of a unit are measured."""
        return not len(self._left(unit, self._measured()))

    def is_finished(self) -> bool:
        """Return whether the scores are there."""
        return (self.output / SCORES).exists()

    def make(self, unit: str) -> None:
        """Measure what is missing of a unit, a row a sample."""
        left, known = self._left(unit, self._measured()), (self._asked.config, self._kind, self._seed)
        for batch in batches(self._asked.cache, left, self._asked.config.batch):
            for row in of_batch(self._asked.trained, self._asked.cache, self._reader, batch, *known):
                append_shared(self.output / ROWS, row | {"of": self._asked.mark})
            failpoint("evaluate.batch")

    def remove_unusable(self) -> None:
        """Refuse rows of another run or cache; a torn row counts as none."""
        self._measured()

    def publish(self) -> None:
        """Write the means over all samples."""
        failpoint("evaluate.publish")
        done = self._measured()
        if any(int(self._ids[row]) not in done for row in self._chosen):
            raise IncompleteParts(f"{self.output / ROWS} lacks samples; the same command measures them")
        scores = summary([done[int(self._ids[row])] for row in self._chosen])
        self._put_together({**scores, **self._asked.records(self._kind, self._seed)})

    def clear(self) -> None:
        """Remove the leases; the rows stay beside the scores."""
        shutil.rmtree(self.output / LEASES, ignore_errors=True)

    def shown(self, unit: str) -> str:
        """Return a unit as people call it."""
        return f"samples {int(unit) * SAMPLES} and following"


def share(units: DensityUnits, queue: QueueConfig, threads: int) -> None:
    """Take part in measuring until the scores are there.  threads: of the CPU."""
    work_alike(threads)
    units.remove_unusable()
    shared_job.work(units, queue)
