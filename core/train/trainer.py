"""The training loop: batches in, updates, averages, metrics and checkpoints out. It knows no model and no
data.

Everything a step does is a function of (state, step). So a run that is killed anywhere and started again
repeats the steps since its last checkpoint bit for bit.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.averages.ema import Ema, EmaConfig, require_updates, weak_averages
from core.batch import Batch
from core.checkpoint.restore import resume
from core.checkpoint.saver import SaveConfig, Saver
from core.config.settings import setting
from core.distributed import ranks
from core.engine.engine import Engine, StepResult
from core.errors import UserError, WorkError
from core.faults import failpoints
from core.faults.failpoints import failpoint
from core.faults.incidents import IncidentConfig, Incidents
from core.faults.watchdog import Watchdog, earlier_than_groups
from core.files import write_json
from core.losses import Objective
from core.metrics.phases import Phases
from core.metrics.rank_report import ALONE, ALONE_IF_MEETING
from core.metrics.rows import Metrics, MetricsConfig, read_rows
from core.metrics.step_sums import StepSums
from core.optim.groups import OptimizerConfig, learning_rate, require_rise
from core.progress import Progress, say
from core.train.corruption import CorruptionCheck, CorruptionConfig
from core.train.feed import Feed
from core.train.profiler import LOGS, ProfileConfig, Profiler
from core.train.step import Stepper
from core.train.validation import Validation, ValidationConfig, line

FINISHED = "finished.json"


@dataclass(frozen=True, kw_only=True)
class TrainerConfig(SaveConfig, IncidentConfig, CorruptionConfig, ProfileConfig):
    """How long to train, and what is kept on the way."""

    steps: int = setting(1000, "optimizer steps of the whole run", unit="steps", low=1)
    watchdog_s: float = setting(
        600.0, "the run ends, telling who waits for whom, when nothing moves for so long; 0 = never", low=0
    )

    def __post_init__(self) -> None:
        if self.profile_from > self.steps:
            raise UserError("profile_from", self.profile_from, f"at most steps={self.steps}, or 0")


def require_effect(trainer: TrainerConfig, optimizer: OptimizerConfig, ema: EmaConfig) -> None:
    """UserError for a setting that cannot act in a run of so many steps."""
    require_rise(optimizer, trainer.steps)
    require_updates(ema, trainer.steps)


class Trainer:
    """One run in one folder; `fit` continues it from wherever it stands.

    fingerprints: what the run depends on (data, encoder, ...); a checkpoint with another value of one is
    refused. run_config: the resolved configuration, for the record.
    """

    def __init__(
        self,
        engine: Engine,
        objective: Objective,
        feed: Feed,
        config: TrainerConfig,
        *,
        folder: Path,
        seed: int,
        ema: EmaConfig | None = None,
        metrics: MetricsConfig | None = None,
        validation: ValidationConfig | None = None,
        fingerprints: Mapping[str, str] | None = None,
        run_config: Mapping[str, Any] | None = None,
    ) -> None:
        self.engine, self.feed, self.config, self.folder = engine, feed, config, folder
        world, identity = engine.world, {"seed": seed, **(fingerprints or {})}
        self.ema = Ema(ema, engine.flats) if ema else None
        self.saver = Saver(
            folder, engine, self.ema, config, identity=identity, record={"config": dict(run_config or {})}
        )
        meets = engine.config.meets_in_forward
        own_clock = time.thread_time if meets and world.device.type == "cpu" else None
        self.phases, self.profiler = Phases(own_clock=own_clock), Profiler(folder, config, world)
        self.stepper = Stepper(engine, objective, seed, self.phases, feed.shape_times)
        self.early_end = self.stepper.early_end
        self.early_end.limit.longest_save_s = lambda: self.saver.longest_s
        self.corruption = CorruptionCheck(self.stepper, self.ema, config)
        self.incidents = Incidents(folder, config, engine.config.gradient_clipping, world)
        alone = ALONE_IF_MEETING if meets else ALONE
        self.metrics = Metrics(
            folder, metrics or MetricsConfig(), world, run_config or {}, engine.data_ranks, self.phases, alone
        )
        self.validation = None
        if validation and feed.validation:
            self.validation = Validation(
                engine, objective, feed.validation, validation, folder=folder, ema=self.ema
            )
        self.step = self.samples_seen = 0

    def fit(self) -> None:
        """Train to the end (collective); the folder then holds `finished.json` and a last checkpoint.

        EndedEarly where a signal asks for that; `fit` on the same folder continues then.
        """
        with self.early_end.catching():
            try:
                self._run()
            finally:
                self.saver.close()

    def _run(self) -> None:
        world = self.engine.world
        self._open()
        for weak in weak_averages(self.ema.config, self.config.steps) if self.ema else []:
            say(f"warning: {weak}")
        limit = earlier_than_groups(self.config.watchdog_s, self.engine.config.timeout_s, world)
        with Watchdog(self.folder / LOGS, self.phases, world, limit), self.profiler.running():
            if self.step < self.config.steps:
                self.stepper.rehearse(self.step, self.feed.largest())
            self._loop()
        if self.step < self.config.steps:
            self.metrics.close()
            raise self.early_end.over(self.folder, self.step, saved=self.incidents.may_save)
        if world.rank == 0:
            write_json(self.folder / FINISHED, {"step": self.step, "samples_seen": self.samples_seen})
        failpoint("run.finished")
        self.metrics.close()

    def _open(self) -> None:
        state = self.saver.open()
        self.incidents.open(state, ranks.on_first_rank(lambda: read_rows(self.incidents.path)))
        if state is not None:
            self.step, self.samples_seen = state["step"], state["samples_seen"]
            say(f"continuing after step {self.step} of {self.config.steps}")
        self.metrics.start(self.step)
        if self.validation:
            self.validation.start(self.step)

    def _loop(self) -> None:
        stream = None
        self.early_end.begin(self.step, self.config.steps)
        if self.validation and self.validation.owed(self.step):
            self._validate(self.validation)
        with Progress(self.config.steps, "train", unit="steps", done=self.step) as progress:
            while self.step < self.config.steps and not self.early_end.agreed:
                if self.step + 1 in self.incidents.passed_over:
                    stream = None
                    self._pass_over()
                else:
                    stream = stream or iter(self.feed.batches(self.step))
                    with self.profiler.step(self.step + 1):
                        self._one_step(stream)
                if self.incidents.too_many:
                    stream = None
                    self._roll_back()
                else:
                    self._after_step()
                progress.advance(self.step - progress.count, note=self.metrics.note())
        if self.feed.shape_times:
            self.feed.shape_times.finish()

    def _after_step(self) -> None:
        """Validate and save where it is time to; at an early end save, and leave the other for later.

        A validation under way then is broken off: it may take longer than a preempted node is given.
        """
        last = self.step == self.config.steps
        if self.validation and self.validation.due(self.step) and (last or not self.early_end.agreed):
            self._validate(self.validation)
        ends = self.early_end.agreed
        if last or (self.incidents.may_save and (ends or self.saver.due(self.step))):
            self.stepper.enter("save")
            self.metrics.sync()
            counters = {"step": self.step, "samples_seen": self.samples_seen, **self.incidents.state()}
            self.saver.save(counters, required=last or ends)
        self.phases.enter("other")

    def _validate(self, validation: Validation) -> None:
        self.stepper.enter("validate")
        self.metrics.flush()
        is_last, asked = self.step == self.config.steps, functools.partial(self.early_end.asked, self.step)
        row = validation.run(self.step, self.phases, (lambda: False) if is_last else asked)
        if row is None:
            return  # the run ends here, and owes it
        if not is_last:
            asked(again=False)  # during the last batch
        say(line(row))
        self.metrics.show_validation(row)

    def _pass_over(self) -> None:
        """Count a step that an earlier rollback took out: no data, no update."""
        self.step += 1
        row = {"step": self.step, "applied": False, "passed_over": True, "seconds": 0.0}
        self.metrics.record(row, StepSums(self.engine.world.device), 0.0)

    def _roll_back(self) -> None:
        """Return to the last checkpoint, or end the run (WorkError, on all ranks alike)."""
        self.metrics.flush()
        self.incidents.require_rollback(self.step)
        self.saver.finish()
        self.corruption.forget()
        state = resume(self.saver.store, self.engine, self.ema)
        if state is None:
            raise self.incidents.stop(self.step, ", and there is no checkpoint to go back to")
        self.incidents.roll_back(state, self.step)
        self.step, self.samples_seen = state["step"], state["samples_seen"]
        self.metrics.rewind(self.step)
        if self.validation:
            self.validation.start(self.step)

    def _one_step(self, stream: Iterator[list[Batch]]) -> None:
        """Wait for data, update, average, record."""
        failpoints.set_step(self.step)
        started = time.perf_counter()
        self.phases.step, self.phases.ids = self.step, []
        self.stepper.enter("data")
        micro_batches = next(stream, None)
        if not micro_batches:
            raise WorkError(f"the data ended before step {self.step} of {self.config.steps}")
        waited = time.perf_counter() - started
        self.phases.ids = micro_batches[0].id
        if self.corruption.due(self.step):
            self._check(micro_batches[0])
        lr = learning_rate(self.engine.optimizer, self.step, self.config.steps)
        sums = StepSums(self.engine.world.device)
        sizes = self.feed.sizes(micro_batches, self.engine.data_ranks)
        samples = sum(map(len, micro_batches)) * self.engine.data_ranks
        clipping = self.incidents.spikes.clipping
        result = self.stepper.update(self.step, micro_batches, lr, clipping, sums)
        if result.applied and self.ema:
            failpoint("step.ema")
            self.ema.update(self.engine.flats, self.engine.updates)
        self._count(micro_batches, result, samples)
        if self.corruption.due(self.step):
            self.corruption.remember()
        self.phases.enter("other")
        row = {"step": self.step, "lr": lr, "grad_norm": result.grad_norm, "applied": result.applied, **sizes}
        row["seconds"] = time.perf_counter() - started
        self.metrics.record(row, sums, waited)
        failpoint("step.end")

    def _check(self, batch: Batch) -> None:
        """WorkError, on all ranks alike, where one of them holds or computes what is wrong."""
        self.stepper.enter("check")
        if found := self.corruption.find(self.step, batch.to(self.engine.world.device)):
            raise self.incidents.corrupt(self.step + 1, found)

    def _count(self, micro_batches: list[Batch], result: StepResult, samples: int) -> None:
        if result.applied:
            self.incidents.applied(self.step + 1, result.grad_norm)
        else:
            self.incidents.note_skipped(self.step + 1, self.stepper.culprits(self.step, micro_batches))
        self.step += 1
        self.samples_seen += samples
