"""The training loop: batches in, updates, averages, metrics and checkpoints out. It knows no model and no
data.

Everything a step does is a function of (state, step): samples and draws are keyed by the step, the learning
rate is a function of it, and torch's own generator is seeded from it. So a run that is killed anywhere and
started again repeats the steps since its last checkpoint bit for bit.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from core import distributed, failpoints
from core.agreement import StepAgreement
from core.batch import Batch
from core.checkpoint import resume
from core.culprit import find_culprits
from core.distributed import World
from core.draws import Draws
from core.ema import Ema, EmaConfig
from core.engine import Engine, StepResult
from core.errors import WorkError
from core.failpoints import failpoint
from core.files import write_json
from core.incidents import IncidentConfig, Incidents
from core.losses import Losses, Objective
from core.metrics import Metrics, MetricsConfig, StepSums, read_rows
from core.optim import learning_rate
from core.phases import Phases
from core.profiler import LOGS, ProfileConfig, Profiler
from core.progress import Progress, say
from core.saver import SaveConfig, Saver
from core.settings import setting
from core.validation import Validation, ValidationConfig
from core.watchdog import Watchdog

FINISHED = "finished.json"


@dataclass(frozen=True, kw_only=True)
class TrainerConfig(SaveConfig, IncidentConfig, ProfileConfig):
    """How long to train, and what is kept on the way."""

    steps: int = setting(1000, "optimizer steps of the whole run", unit="steps", low=1)
    watchdog_s: float = setting(
        600.0, "the run ends, telling who waits for whom, when nothing moves for so long; 0 = never", low=0
    )


Batches = Callable[[int], Iterator[list[Batch]]]
"""From the first step on, this rank's micro-batches of each step."""


class Trainer:
    """One run in one folder; `fit` continues it from wherever it stands.

    fingerprints: what the run depends on (data, encoder, ...); a checkpoint with another value of one is
    refused. run_config: the resolved configuration, for the record.  tokens_of, flops_of: tokens of a
    micro-batch, and operations of its forward and backward pass, for tokens/s and TFLOP/s.
    validation_batches: this rank's part of the samples to validate on, the same at every call.
    """

    def __init__(
        self,
        engine: Engine,
        objective: Objective,
        batches: Batches,
        config: TrainerConfig,
        *,
        folder: Path,
        seed: int,
        ema: EmaConfig | None = None,
        metrics: MetricsConfig | None = None,
        validation: ValidationConfig | None = None,
        validation_batches: Callable[[], Iterable[Batch]] | None = None,
        fingerprints: Mapping[str, str] | None = None,
        run_config: Mapping[str, Any] | None = None,
        tokens_of: Callable[[Batch], int] | None = None,
        flops_of: Callable[[Batch], float] | None = None,
    ) -> None:
        self.engine, self.objective, self.batches, self.config = engine, objective, batches, config
        self.folder, self.seed = folder, seed
        self._sizes = {"tokens": tokens_of, "flops": flops_of}
        self.ema = Ema(ema, engine.flats) if ema else None
        identity = {"seed": seed, **(fingerprints or {})}
        record = {"config": dict(run_config or {})}
        self.saver = Saver(folder, engine, self.ema, config, identity=identity, record=record)
        self.phases, self.profiler = Phases(), Profiler(folder, config, engine.world)
        self.incidents = Incidents(folder, config, engine.config.gradient_clipping, engine.world)
        self.metrics = Metrics(
            folder,
            metrics or MetricsConfig(),
            engine.world,
            record["config"],
            data_ranks=engine.data_ranks,
            phases=self.phases,
        )
        self.validation = None
        if validation and validation_batches:
            self.validation = Validation(
                engine, objective, validation_batches, validation, folder=folder, seed=seed, ema=self.ema
            )
        self.step = self.samples_seen = 0

    def fit(self) -> None:
        """Train to the end (collective); the folder then holds `finished.json` and a last checkpoint."""
        world = self.engine.world
        try:
            self._open()
            watchdog = Watchdog(self.folder / LOGS, self.phases, world, self.config.watchdog_s)
            with watchdog, self.profiler.running():
                self._loop()
            if world.rank == 0:
                write_json(self.folder / FINISHED, {"step": self.step, "samples_seen": self.samples_seen})
            self.metrics.close()
        finally:
            self.saver.close()

    def _open(self) -> None:
        state = self.saver.open()
        self.incidents.open(state, distributed.on_first_rank(lambda: read_rows(self.incidents.path)))
        if state is not None:
            self.step, self.samples_seen = state["step"], state["samples_seen"]
            say(f"continuing after step {self.step} of {self.config.steps}")
        self.metrics.start(self.step)
        if self.validation:
            self.validation.start(self.step)

    def _loop(self) -> None:
        stream = None
        with Progress(self.config.steps, "train", unit="steps", done=self.step) as progress:
            while self.step < self.config.steps:
                if self.step + 1 in self.incidents.passed_over:
                    stream = None
                    self._pass_over()
                else:
                    stream = stream or iter(self.batches(self.step))
                    with self.profiler.step(self.step + 1):
                        self._one_step(stream)
                if self.incidents.too_many:
                    stream = None
                    self._roll_back()
                else:
                    self._after_step()
                progress.advance(self.step - progress.count, note=f"loss {self.metrics.last_loss:.4f}")

    def _after_step(self) -> None:
        """Validate and save where it is time to."""
        if self.validation and self.validation.due(self.step):
            self.validation.run(self.step, self.phases)
        last = self.step == self.config.steps
        if last or (self.saver.due(self.step) and self.incidents.may_save):
            self.phases.enter("save")
            self.metrics.sync()
            counters = {"step": self.step, "samples_seen": self.samples_seen, **self.incidents.state()}
            self.saver.save(counters, required=last)
        self.phases.enter("other")

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
        self._enter("data")
        micro_batches = next(stream, None)
        if not micro_batches:
            raise WorkError(f"the data ended before step {self.step} of {self.config.steps}")
        waited = time.perf_counter() - started
        self.phases.ids = micro_batches[0].id[:4].tolist()
        lr = learning_rate(self.engine.optimizer, self.step, self.config.steps)
        sums = StepSums(self.engine.world.device)
        result = self._update(micro_batches, lr, sums)
        if result.applied and self.ema:
            failpoint("step.ema")
            self.ema.update(self.engine.flats, self.engine.updates)
        self._count(micro_batches, result)
        row = {"step": self.step, "lr": lr, "grad_norm": result.grad_norm, "applied": result.applied}
        for name, size in self._sizes.items():
            if size is not None:
                row[name] = sum(map(size, micro_batches)) * self.engine.data_ranks
        self.phases.enter("other")
        self.metrics.record({**row, "seconds": time.perf_counter() - started}, sums, waited)
        failpoint("step.end")

    def _enter(self, phase: str) -> None:
        self.phases.enter(phase)
        failpoint(f"step.{phase}")

    def _update(self, micro_batches: list[Batch], lr: float, sums: StepSums) -> StepResult:
        """Minimise the mean loss over the true samples of all ranks and micro-batches.

        A sample's weight is 1, or 0 where it could not be read. Ranks that share its tokens each count it, in
        the sum and in the total alike. Without any sample the mean is 0/0: the gradients are not finite and
        the step is skipped, on all ranks alike.
        """
        device = self.engine.world.device
        _seed_torch(self.seed, self.step, self.engine.world)
        local = sum(float(batch.weight.sum()) for batch in micro_batches)
        agreement = StepAgreement(self.step, local, self.engine.world)
        for batch in micro_batches:
            batch = batch.to(device)
            self._enter("forward")
            losses = self._loss(batch)
            kept = torch.where(batch.weight > 0, losses.loss, 0.0) * batch.weight
            self._enter("backward")
            self.engine.backward(failpoint("step.loss", kept.sum()) / agreement.total_weight())
            sums.add(losses, batch.weight)
        self._enter("update")
        result = self.engine.step(lr, self.incidents.spikes.clipping)
        agreement.require()
        return result

    def _loss(self, batch: Batch) -> Losses:
        return self.objective.loss(self.engine, batch, Draws(self.seed, self.step, batch.id, batch.position))

    def _count(self, micro_batches: list[Batch], result: StepResult) -> None:
        if result.applied:
            self.incidents.applied(self.step + 1, result.grad_norm)
        else:
            _seed_torch(self.seed, self.step, self.engine.world)
            on_device = [batch.to(self.engine.world.device) for batch in micro_batches]
            self.incidents.note_skipped(self.step + 1, find_culprits(self.engine, self._loss, on_device))
        self.step += 1
        self.samples_seen += sum(map(len, micro_batches)) * self.engine.data_ranks


def _seed_torch(seed: int, step: int, world: World) -> None:
    """For randomness inside the network (dropout): a function of the step, not of the past.

    The generators of this rank alone: `torch.manual_seed` goes through all devices, in half a millisecond.
    """
    digest = hashlib.blake2b(f"torch {seed} {step} {world.rank}".encode(), digest_size=8).digest()
    number = int.from_bytes(digest, "little") >> 1
    torch.default_generator.manual_seed(number)
    if world.device.type == "cuda":
        torch.cuda.manual_seed(number)
