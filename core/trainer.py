"""The training loop: batches in, updates, averages, metrics and checkpoints out. It knows no model and no
data.

Everything a step does is a function of (state, step): samples and draws are keyed by the step, the learning
rate is a function of it, and torch's own generator is seeded from it. So a run that is killed anywhere and
started again repeats the steps since its last checkpoint bit for bit.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from core import distributed, failpoints
from core.batch import Batch
from core.draws import Draws
from core.ema import Ema, EmaConfig
from core.engine import Engine, StepResult
from core.errors import WorkError
from core.failpoints import failpoint
from core.files import write_json
from core.losses import Losses
from core.metrics import Metrics, MetricsConfig, StepSums
from core.optim import learning_rate
from core.progress import Progress, say
from core.saver import SaveConfig, Saver
from core.settings import setting

FINISHED = "finished.json"


@dataclass(frozen=True, kw_only=True)
class TrainerConfig(SaveConfig):
    """How long to train, and what is kept on the way."""

    steps: int = setting(1000, "optimizer steps of the whole run", unit="steps", low=1)
    max_skipped: int = setting(20, "steps in a row with a non-finite gradient that end the run", low=1)


class Objective(Protocol):
    """What is minimised."""

    def loss(self, model: Any, batch: Batch, draws: Draws) -> Losses:
        """The loss of every sample of a micro-batch."""
        ...


Batches = Callable[[int], Iterator[list[Batch]]]
"""From the first step on, this rank's micro-batches of each step."""


class Trainer:
    """One run in one folder; `fit` continues it from wherever it stands.

    fingerprints: what the run depends on (data, encoder, ...); a checkpoint with another value of one is
    refused. run_config: the resolved configuration, for the record.  tokens_of: tokens of a micro-batch, for
    tokens/s.
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
        fingerprints: Mapping[str, str] | None = None,
        run_config: Mapping[str, Any] | None = None,
        tokens_of: Callable[[Batch], int] | None = None,
    ) -> None:
        self.engine, self.objective, self.batches, self.config = engine, objective, batches, config
        self.folder, self.seed, self.tokens_of = folder, seed, tokens_of
        self.ema = Ema(ema, engine.flats) if ema else None
        identity = {"seed": seed, **(fingerprints or {})}
        record = {"config": dict(run_config or {})}
        self.saver = Saver(folder, engine, self.ema, config, identity=identity, record=record)
        self.metrics = Metrics(
            folder, metrics or MetricsConfig(), engine.world, record["config"], data_ranks=engine.data_ranks
        )
        self.step = self.samples_seen = self.skipped = self._skipped_in_a_row = 0

    def fit(self) -> None:
        """Train to the end (collective); the folder then holds `finished.json` and a last checkpoint."""
        try:
            state = self.saver.open()
            if state is not None:
                self.step, self.samples_seen = state["step"], state["samples_seen"]
                self.skipped, self._skipped_in_a_row = state["skipped"], state["skipped_in_a_row"]
                say(f"continuing after step {self.step} of {self.config.steps}")
            self.metrics.start(self.step)
            self._loop()
            if self.engine.world.rank == 0:
                write_json(self.folder / FINISHED, {"step": self.step, "samples_seen": self.samples_seen})
            self.metrics.close()
        finally:
            self.saver.close()

    def _loop(self) -> None:
        stream = None
        with Progress(self.config.steps, "train", unit="steps", done=self.step) as progress:
            while self.step < self.config.steps:
                stream = stream or iter(self.batches(self.step))
                self._one_step(stream)
                progress.advance(note=f"loss {self.metrics.last_loss:.4f}")
                last = self.step == self.config.steps
                if last or self.saver.due(self.step):
                    self.metrics.sync()
                    self.saver.save(self._counters(), required=last)

    def _counters(self) -> dict[str, int]:
        return {
            "step": self.step,
            "samples_seen": self.samples_seen,
            "skipped": self.skipped,
            "skipped_in_a_row": self._skipped_in_a_row,
        }

    def _one_step(self, stream: Iterator[list[Batch]]) -> None:
        """Wait for data, update, average, record."""
        failpoints.set_step(self.step)
        started = time.perf_counter()
        failpoint("step.data")
        micro_batches = next(stream, None)
        if not micro_batches:
            raise WorkError(f"the data ended before step {self.step} of {self.config.steps}")
        waited = time.perf_counter() - started
        lr = learning_rate(self.engine.optimizer, self.step, self.config.steps)
        sums = StepSums(self.engine.world.device)
        result = self._update(micro_batches, lr, sums)
        if result.applied and self.ema:
            failpoint("step.ema")
            self.ema.update(self.engine.flats, self.engine.updates)
        self._count(micro_batches, result)
        row = {"step": self.step, "lr": lr, "grad_norm": result.grad_norm, "applied": result.applied}
        if self.tokens_of is not None:
            row["tokens"] = sum(map(self.tokens_of, micro_batches)) * self.engine.data_ranks
        self.metrics.record({**row, "seconds": time.perf_counter() - started}, sums, waited)
        failpoint("step.end")

    def _update(self, micro_batches: list[Batch], lr: float, sums: StepSums) -> StepResult:
        """Minimise the mean loss over the true samples of all ranks and micro-batches.

        A sample's weight is 1, or 0 where it could not be read. Ranks that share its tokens each count it, in
        the sum and in the total alike. Without any sample the mean is 0/0: the gradients are not finite and
        the step is skipped, on all ranks alike.
        """
        device = self.engine.world.device
        torch.manual_seed(_torch_seed(self.seed, self.step, self.engine.world.rank))
        local = sum(float(batch.weight.sum()) for batch in micro_batches)
        total = distributed.PendingSum(torch.tensor(local, device=device))
        for batch in micro_batches:
            batch = batch.to(device)
            failpoint("step.forward")
            losses = self.objective.loss(
                self.engine, batch, Draws(self.seed, self.step, batch.id, batch.position)
            )
            kept = torch.where(batch.weight > 0, losses.loss, 0.0) * batch.weight
            failpoint("step.backward")
            self.engine.backward(failpoint("step.loss", kept.sum()) / total.wait())
            sums.add(losses, batch.weight)
        failpoint("step.update")
        return self.engine.step(lr)

    def _count(self, micro_batches: list[Batch], result: StepResult) -> None:
        self.step += 1
        self.samples_seen += sum(map(len, micro_batches)) * self.engine.data_ranks
        self.skipped += not result.applied
        self._skipped_in_a_row = 0 if result.applied else self._skipped_in_a_row + 1
        if not result.applied:
            say(f"warning: step {self.step} was skipped on all ranks: its gradients are not finite")
        if self._skipped_in_a_row >= self.config.max_skipped:
            raise WorkError(
                f"{self._skipped_in_a_row} steps in a row had non-finite gradients, up to {self.step}"
            )


def _torch_seed(seed: int, step: int, rank: int) -> int:
    """For randomness inside the network (dropout): a function of the step, not of the past."""
    digest = hashlib.blake2b(f"torch {seed} {step} {rank}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
