"""One optimizer step on one rank: forward and backward of its micro-batches, then the update.

Everything in it is a function of (state, step, samples): draws are keyed by the step, and torch's own
generator, for randomness inside the network, is seeded from it.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from core.batch import Batch
from core.distributed.agreement import StepAgreement
from core.draws import Draws
from core.engine.borrow import discarded
from core.engine.engine import Engine, StepResult
from core.faults.failpoints import failpoint
from core.faults.nonfinite import find_culprits
from core.faults.out_of_memory import naming_what_does_not_fit, out_of_memory
from core.losses import Losses, Objective
from core.metrics.phases import Phases
from core.metrics.shape_times import ShapeTimes
from core.metrics.step_sums import StepSums
from core.run.early_end import EarlyEnd

_WEYL = 0x9E3779B97F4A7C15  # of the golden ratio: its multiples modulo 2^63 lie far apart


class Stepper:
    """Computes steps; the run's counters are others'. shape_times: is told of every micro-batch."""

    def __init__(
        self,
        engine: Engine,
        objective: Objective,
        seed: int,
        phases: Phases,
        shape_times: ShapeTimes | None = None,
    ) -> None:
        self.engine, self.objective, self.seed, self.phases = engine, objective, seed, phases
        self._shape_times, self.early_end = shape_times, EarlyEnd(engine.world)
        self._on_cuda = engine.world.device.type == "cuda"  # asked of torch it costs as much as a kernel
        digest = hashlib.blake2b(f"torch {seed} {engine.world.rank}".encode(), digest_size=8).digest()
        self._torch_seed = int.from_bytes(digest, "little")

    def update(
        self, step: int, micro_batches: Sequence[Batch], lr: float, clipping: float, sums: StepSums
    ) -> StepResult:
        """Minimise the mean loss over the true samples of all ranks and micro-batches (collective).

        A sample's weight is 1, or 0 where it could not be read. Ranks that share its tokens each count it, in
        the sum and in the total alike. Without any sample the mean is 0/0: the gradients are not finite and
        the step is skipped, on all ranks alike.
        """
        world = self.engine.world
        self.seed_torch(step)
        peers, ends = self.engine.config.sequence_parallel, self.early_end.flag(step)
        agreement = StepAgreement(step, micro_batches, world, peers, ends=ends)
        for number, batch in enumerate(micro_batches, 1):
            if self._shape_times:
                self._shape_times.begin(batch)
            try:
                batch = batch.to(world.device)
                # Nothing else refers to the loss, so the network's graph goes before the next one is made.
                self.engine.backward(self._share_of_loss(step, batch, agreement, sums))
            except torch.OutOfMemoryError as error:
                where = f"step {step + 1}, micro-batch {number} of {len(micro_batches)}"
                raise out_of_memory(error, where, world.rank, batch) from error
        if self._shape_times:
            self._shape_times.end()
        self.enter("update")
        result = self.engine.step(lr, clipping)
        self.early_end.agreed = agreement.require()
        return result

    def _share_of_loss(self, step: int, batch: Batch, agreement: StepAgreement, sums: StepSums) -> Tensor:
        """What a batch on the device adds to the step's mean loss; its losses are noted in `sums`."""
        self.enter("forward")
        losses = self.loss(step, batch)
        sums.add(losses, batch.weight)
        kept = losses.loss
        if not agreement.all_count:
            kept = torch.where(batch.weight > 0, kept, 0.0) * batch.weight
        self.enter("backward")  # before the total is asked for: a rank may wait for others there
        total = agreement.total_weight()
        if isinstance(total, float) and total == len(batch):  # all of the step's samples: the same, in one go
            return failpoint("step.loss", kept.mean())
        return failpoint("step.loss", kept.sum()) / total

    def rehearse(self, step: int, batches: Sequence[Batch]) -> None:
        """Forward and backward of each batch as in `step`, and nothing of it remains (collective).

        For the largest ones before the first step, so that memory runs out in the first minute or never.
        """
        if not batches:
            return
        world, where = self.engine.world, "a micro-batch as large as any, tried before the first step"
        with discarded(self.engine):
            for batch in batches:
                self.seed_torch(step)
                self.phases.enter("other")
                with naming_what_does_not_fit(where, world.rank, batch):
                    self.engine.backward(self.loss(step, batch.to(world.device)).loss.mean())
                    failpoint("rehearsal")

    def culprits(self, step: int, micro_batches: Sequence[Batch]) -> list[dict[str, Any]]:
        """Which samples and module made a step that was skipped not finite (collective)."""
        self.seed_torch(step)
        on_device = [batch.to(self.engine.world.device) for batch in micro_batches]
        return find_culprits(self.engine, functools.partial(self.loss, step), on_device)

    def loss(self, step: int, batch: Batch) -> Losses:
        """The losses of a batch on the device, under its draws of `step`."""
        return self.objective.loss(self.engine, batch, Draws(self.seed, step, batch.id, batch.position))

    def seed_torch(self, step: int) -> None:
        """For randomness inside the network (dropout): a function of the step and rank, not of the past.

        The generators of this rank alone: `torch.manual_seed` goes through all devices, in half a
        millisecond.
        """
        number = (self._torch_seed + step * _WEYL) % 2**63
        torch.default_generator.manual_seed(number)
        if self._on_cuda:
            torch.cuda.manual_seed(number)

    def enter(self, phase: str) -> None:
        """Begin a phase of the step."""
        self.phases.enter(phase)
        failpoint(f"step.{phase}")
