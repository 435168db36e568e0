"""The training loop: batches in, updates, averages, metrics and checkpoints out. It knows no model, no data,
and no kind of step.

Everything a step does is a function of (state, step). So a run that is killed anywhere and started again
repeats the steps since its last checkpoint bit for bit.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from core import log
from core.averages.ema import weak_averages
from core.batch import Batch
from core.checkpoint.restore import resume
from core.checkpoint.saver import Saver
from core.engine.network import MAIN
from core.errors import below
from core.faults.failpoints import failpoint
from core.faults.incidents import Incidents
from core.faults.watchdog import Limits, Watchdog, earlier_than_groups
from core.files import write_json
from core.metrics.phases import Phases
from core.metrics.rank_report import ALONE, ALONE_IF_MEETING
from core.metrics.rows import Metrics, MetricsConfig
from core.metrics.step_sums import StepSums
from core.metrics.watch import Watch, stepped
from core.progress import Progress, say
from core.run.fence import fenced
from core.run.folder import FINISHED, INITIAL, LOGS
from core.train.config import TrainerConfig
from core.train.corruption import CorruptionCheck
from core.train.looks import Look, Looks
from core.train.measured_step import MeasuredSteps
from core.train.profiler import Profiler
from core.train.run_records import RunRecords
from core.train.runner import StepRunner
from core.train.step import Stepper
from core.train.training_data import TrainingData
from core.train.validation import ValidationConfig, make_validation


class Trainer:
    """One run in one folder; `fit` continues it from wherever it stands.

    stepper: the definition of a step, and the networks it trains; `engine` and `ema` are the main one's.
    fingerprints: of everything the run depends on (data, encoder, ...); a checkpoint with another value is
    refused. run_config: the resolved configuration, for the record.  looks: beside validation.
    """

    def __init__(
        self,
        stepper: Stepper,
        data: TrainingData,
        config: TrainerConfig,
        *,
        folder: Path,
        seed: int,
        metrics: MetricsConfig | None = None,
        validation: ValidationConfig | None = None,
        looks: Sequence[Look] = (),
        fingerprints: Mapping[str, str] | None = None,
        run_config: Mapping[str, Any] | None = None,
    ) -> None:
        self.stepper, self.data, self.config, self.folder = stepper, data, config, folder
        self.networks, main = stepper.networks, stepper.networks[MAIN]
        self.engine, self.ema, self.world = main.engine, main.ema, main.engine.world
        configs = {name: network.engine.config for name, network in self.networks.items()}
        record, identity = {"config": dict(run_config or {})}, {"seed": seed, **(fingerprints or {})}
        self.saver = Saver(folder, self.networks, config, identity=identity, record=record)
        meets = any(engine.meets_in_forward for engine in configs.values())
        own_clock = time.thread_time if meets and self.world.device.type == "cpu" else None
        self.phases, self.profiler = Phases(own_clock=own_clock), Profiler(folder, config, self.world)
        self.runner = StepRunner(stepper, config.steps, seed, self.phases, data.shape_times)
        self.early_end = self.runner.early_end
        self.early_end.limit.longest_save_s = lambda: self.saver.longest_s
        self.corruption = CorruptionCheck(self.runner, config)
        clipping = {name: engine.gradient_clipping for name, engine in configs.items()}
        self.incidents = Incidents(folder, config, clipping, self.world)
        self.metrics = Metrics(
            folder,
            metrics or MetricsConfig(),
            self.world,
            run_config or {},
            self.engine.data_ranks,
            self.phases,
            ALONE_IF_MEETING if meets else ALONE,
            failed=self.incidents.tracker_failed,
        )
        with below("validation"):
            self.validation = make_validation(
                validation, main, stepper.validated, data.validation, folder=folder
            )
        self._timeout_s = min(engine.timeout_s for engine in configs.values())
        every = [*([self.validation] if self.validation else []), *looks]
        self.looks = Looks(every, self.runner, self.metrics, config.steps)
        kept = self.metrics.record_file, self.incidents.record_file
        self.records = RunRecords([*kept, *(look.record_file for look in every)])
        self.measured = MeasuredSteps(
            self.runner, data, config.steps, self.corruption, self.incidents, self.metrics
        )
        self.step = self.samples_seen = 0

    def watch(self, watch: Watch) -> None:
        """Have `watch` time every step from now on, and its parts outside this code (for benchmarks)."""
        # Installed here rather than asked for at each step, so that a run without a watch pays nothing.
        self.one_step = stepped(self.one_step, watch)  # type: ignore[method-assign]
        for network in self.networks.values():
            network.engine.watch(watch)
            if network.ema:
                network.ema.update = watch.around(network.ema.update)  # type: ignore[method-assign]

    def fit(self) -> None:
        """Train to the end (collective); the folder then holds `finished.json` and a last checkpoint.

        EndedEarly where a signal asks for that; `fit` on the same folder continues then.
        """
        with self.early_end.catching():
            try:
                self._run()
            finally:
                self.saver.close()
        log.leave()  # after an error the last line of this process still belongs to the run

    def _run(self) -> None:
        world = self.world
        self.open()
        start_is = "what the run began from" if (self.folder / INITIAL).exists() else "the random start"
        for ema in (network.ema for network in self.networks.values() if network.ema):
            for weak in weak_averages(ema.config, self.config.steps, start_is):
                say(f"warning: {weak}")
        watchdog_s = earlier_than_groups(self.config.watchdog_s, self._timeout_s, world)
        limits = Limits(watchdog_s, self.config.save_timeout_s)
        watchdog = Watchdog(self.folder / LOGS, self.phases, world, limits, self.saver.silence)
        fence = fenced(self.saver.require_owner) if world.rank == 0 else contextlib.nullcontext()
        with watchdog, fence, self.profiler.running():
            if self.step < self.config.steps:
                self.runner.rehearse(self.step, self.data.largest())
            self._loop()
        if self.step < self.config.steps:
            self.metrics.close()
            raise self.early_end.over(self.folder, self.step, saved=self.incidents.may_save)
        if world.rank == 0:
            self.saver.require_owner()
            write_json(self.folder / FINISHED, {"step": self.step, "samples_seen": self.samples_seen})
        failpoint("run.finished")
        self.metrics.close()

    def open(self) -> None:
        """Take the run over and restore its newest checkpoint (collective)."""
        state = self.saver.open()
        attempt = self.saver.attempt
        head = f"start {attempt.number} ({attempt.name}) with {attempt.code}"
        log.keep_in(self.folder / LOGS, self.world.rank, head)
        self.records.own(attempt.name, self.saver.require_owner, state)
        self.incidents.open(state)
        if state is not None:
            self._load(state)
            say(f"continuing after step {self.step} of {self.config.steps}")
        self.phases.step = self.step + 1
        self.metrics.start(self.step)
        self.looks.start(self.step)
        self.records.compare()

    def _load(self, state: Mapping[str, Any]) -> None:
        """Take on the counters of a checkpoint whose networks are loaded, and the state of the stepper."""
        self.step, self.samples_seen = state["step"], state["samples_seen"]
        self.stepper.load(state.get("stepper", {}))

    def _loop(self) -> None:
        stream = None
        self.early_end.begin(self.step, self.config.steps)
        self.looks.make_up(self.step)
        with Progress(self.config.steps, "train", unit="steps", done=self.step) as progress:
            while self.step < self.config.steps and not self.early_end.agreed:
                if self.step + 1 in self.incidents.passed_over:
                    stream = None
                    self._pass_over()
                else:
                    stream = stream or iter(self.data.batches(self.step))
                    with self.profiler.step(self.step + 1):
                        self.one_step(stream)
                if self.incidents.too_many:
                    stream = None
                    self._roll_back()
                else:
                    self._after_step()
                progress.advance(self.step - progress.count, note=self.metrics.note())
        if self.data.shape_times:
            self.data.shape_times.finish()

    def _after_step(self) -> None:
        """Validate and save when due; at an early end save, and leave validation for later."""
        self.looks.take(self.step)
        last = self.step == self.config.steps
        ends = self.early_end.agreed
        if last or (self.incidents.may_save and (ends or self.saver.due(self.step))):
            self.runner.enter("save")
            self.metrics.flush()
            unwritten = self.records.sync()
            state = self._state() | self.records.sizes()
            self.saver.save(state, required=last or ends, unwritten=unwritten)
        self.phases.enter("other")

    def _state(self) -> dict[str, Any]:
        counters = {"step": self.step, "samples_seen": self.samples_seen, **self.incidents.state()}
        return counters | ({"stepper": state} if (state := self.stepper.state()) else {})

    def _pass_over(self) -> None:
        """Count a step that an earlier rollback took out: no data, no update."""
        self.step += 1
        row = {"step": self.step, "applied": False, "passed_over": True, "seconds": 0.0}
        self.metrics.record(row, StepSums(self.world.device), 0.0)

    def _roll_back(self) -> None:
        """Return to the last checkpoint, or end the run (WorkError, on all ranks alike)."""
        self.phases.enter("save")  # waiting for one, and reading one, has the limit of a save
        self.metrics.flush()
        self.incidents.require_rollback(self.step)
        self.saver.finish()
        self.corruption.forget()
        state = resume(self.saver.store, self.networks)
        if state is None:
            raise self.incidents.stop(self.step, ", and there is no checkpoint to go back to")
        self.records.own(self.saver.attempt.name, self.saver.require_owner, state)
        self.incidents.roll_back(state, self.step)
        self._load(state)
        self.metrics.rewind(self.step)
        self.looks.start(self.step)
        self.phases.enter("other")

    def one_step(self, stream: Iterator[list[Batch]]) -> None:
        """Take the next step and count it (collective)."""
        self.samples_seen += self.measured.take(self.step, stream, self.samples_seen)
        self.step += 1
        failpoint("step.end")
