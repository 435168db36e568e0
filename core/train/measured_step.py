"""One step of a run, from its data to its row of metrics."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping

from core.batch import Batch
from core.engine.engine import StepResult
from core.engine.network import MAIN
from core.errors import WorkError
from core.faults import failpoints
from core.faults.incidents import Incidents
from core.metrics.rows import Metrics
from core.metrics.step_sums import StepSums
from core.train.columns import learning_rates, outcome
from core.train.corruption import CorruptionCheck
from core.train.outlook import Outlook
from core.train.runner import StepRunner
from core.train.training_data import TrainingData


class MeasuredSteps:
    """Takes steps, notes what went wrong in them and records them; it keeps no counters of the run.

    steps: of the whole run.
    """

    def __init__(
        self,
        runner: StepRunner,
        data: TrainingData,
        steps: int,
        corruption: CorruptionCheck,
        incidents: Incidents,
        metrics: Metrics,
    ) -> None:
        self._runner, self._data, self._steps = runner, data, steps
        self._networks, self._phases, self._world = runner.networks, runner.phases, runner.world
        self._data_ranks = runner.networks[MAIN].engine.data_ranks
        self._corruption, self._incidents, self._metrics = corruption, incidents, metrics
        self._outlook = Outlook(steps, data.samples)

    def take(self, step_index: int, stream: Iterator[list[Batch]], samples_seen: int) -> int:
        """Wait for data, update, record; return the number of samples of the step (collective).

        samples_seen: before the step.
        """
        step = step_index + 1
        failpoints.set_step(step)
        started = time.perf_counter()
        self._phases.step, self._phases.ids = step, []
        self._runner.enter("data")
        micro_batches = next(stream, None)
        if not micro_batches:
            raise WorkError(f"the data ended before step {step} of {self._steps}")
        waited = time.perf_counter() - started
        self._phases.ids = micro_batches[0].id
        if self._corruption.due(step_index):
            self._check(step_index, micro_batches[0])
        sums = StepSums(self._world.device)
        sizes = self._data.sizes(micro_batches, self._data_ranks)
        samples = sum(map(len, micro_batches)) * self._data_ranks
        results = self._runner.run(step_index, micro_batches, self._incidents.clipping, sums)
        self._note(step_index, micro_batches, results)
        if self._corruption.due(step):
            self._corruption.remember()
        self._phases.enter("other")
        rates = learning_rates(self._networks, results, step_index, self._steps)
        row = {"step": step, **rates, **outcome(results), "order_hash": self._runner.order_hash, **sizes}
        row["seconds"] = time.perf_counter() - started
        self._metrics.record(row, sums, waited)
        self._outlook.count(step, row["seconds"], samples_seen + samples)
        return samples

    def _check(self, step_index: int, batch: Batch) -> None:
        """Raise WorkError, on all ranks alike, where one of them holds or computes wrong values."""
        self._runner.enter("check")
        if found := self._corruption.find(step_index, batch.to(self._world.device)):
            raise self._incidents.corrupt(step_index + 1, found)

    def _note(self, step_index: int, micro_batches: list[Batch], results: Mapping[str, StepResult]) -> None:
        """Note updates with their gradient norms, and what made the gradients of skipped ones not finite."""
        for name, result in results.items():
            if result.applied:
                self._incidents.applied(step_index + 1, name, result.grad_norm)
        if skipped := [name for name, result in results.items() if not result.applied]:
            found = self._runner.nonfinite(step_index, micro_batches, skipped)
            self._incidents.note_skipped(step_index + 1, skipped, found)
