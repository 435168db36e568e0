"""Carry out steps of any kind, and compute their turns again where that is asked for.

Everything in a step is a function of (state, step, samples): draws are keyed by the step, and torch's own
generator, for randomness inside networks, is seeded from it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from core.batch import Batch
from core.distributed import ranks
from core.distributed.agreement import StepAgreement
from core.engine.engine import StepResult
from core.engine.network import MAIN, require_networks
from core.engine.restoring import buffers_kept, constant, dry_step
from core.faults.failpoints import failpoint
from core.faults.nonfinite import find_nonfinite
from core.faults.out_of_memory import naming_what_does_not_fit
from core.faults.watchdog import START_PATIENCE
from core.losses import Losses
from core.metrics.phases import Phases
from core.metrics.shape_times import ShapeTimes
from core.metrics.step_sums import StepSums
from core.run.early_end import EarlyEnd
from core.train.randomness import Randomness
from core.train.step import Step, Stepper, Turn, others


class StepRunner:
    """Runs a stepper's steps; it keeps no counters of the run. shape_times: called for every micro-batch."""

    def __init__(
        self,
        stepper: Stepper,
        steps: int,
        seed: int,
        phases: Phases,
        shape_times: ShapeTimes | None = None,
    ) -> None:
        require_networks(stepper.networks)
        self.stepper, self.networks, self.phases = stepper, stepper.networks, phases
        self._steps, self._shape_times = steps, shape_times
        self._engine = stepper.networks[MAIN].engine
        self.world = self._engine.world
        self._turns: Sequence[Turn] = ()  # of the last step
        self.order_hash: int | None = None  # which samples the last step had, over all ranks
        self._timeout_s = min(network.engine.config.timeout_s for network in self.networks.values())
        self.early_end, self.randomness = EarlyEnd(self.world), Randomness(seed, self.world)

    def run(
        self, step_index: int, micro_batches: Sequence[Batch], clipping: Mapping[str, float], sums: StepSums
    ) -> Mapping[str, StepResult]:
        """Do step `step_index` and average; return the results of its updates, by network (collective)."""
        peers, ends = self._engine.config.sequence_parallel, self.early_end.flag(step_index)
        agreement = StepAgreement(step_index, micro_batches, self.world, peers, ends=ends)
        turns = self._turns = self.stepper.turns(step_index)
        step = Step(
            step_index,
            self._steps,
            turns,
            micro_batches,
            self.networks,
            clipping,
            sums,
            agreement,
            self.phases,
            self.randomness,
            self._shape_times,
        )
        self.stepper.update(step)
        planned = [name for turn in turns for name in turn.updates]
        if list(step.results) != planned:
            raise RuntimeError(
                f"step {step_index + 1} updated {list(step.results)}, and its turns are {planned}"
            )
        self.early_end.agreed = agreement.require()
        self.order_hash = agreement.order_hash
        for name, result in step.results.items():
            engine, ema = self.networks[name].engine, self.networks[name].ema
            if result.applied and ema:
                failpoint("step.ema")
                ema.update(engine.masters, engine.updates)
        if self.phases.patience > 1:
            self._allow(1)  # from here on every step is like the one before it
        return step.results

    def _allow(self, times: float) -> None:
        """Let a phase, and a collective, take so many times as long as usual."""
        self.phases.patience = times
        ranks.set_timeouts(times * self._timeout_s)

    def rehearse(self, step_index: int, batches: Sequence[Batch]) -> None:
        """Run forward and backward of each batch as in step `step_index`, without effect (collective).

        For the largest ones before the first step, so that memory runs out in the first minute or never.
        From here to the end of the first step there is more patience: kernels are compiled and chosen, ranks
        connect, and none of that can give a sign of life.
        """
        self._allow(START_PATIENCE)
        if not batches:
            return
        where = "a micro-batch as large as any, tried before the first step"
        for number, turn in enumerate(self.stepper.rehearsed(step_index)):
            engine = self.networks[turn.network].engine
            with self.trying(turn), dry_step(engine):
                for batch in batches:
                    self.randomness.seed_torch(step_index, number)
                    self.phases.enter("other")
                    with naming_what_does_not_fit(where, self.world.rank, batch):
                        losses = self.loss(turn, step_index, batch.to(self.world.device))
                        engine.backward(losses.loss.mean())
                        failpoint("rehearsal")

    def nonfinite(
        self, step_index: int, micro_batches: Sequence[Batch], skipped: Collection[str]
    ) -> list[dict[str, Any]]:
        """Find which samples and modules made the last step's `skipped` updates not finite (collective)."""
        on_device = [batch.to(self.world.device) for batch in micro_batches]
        found: list[dict[str, Any]] = []
        for number, turn in enumerate(self._turns):
            if any(name in skipped for name in turn.updates):
                self.randomness.seed_torch(step_index, number)
                name = {"network": turn.network} if turn.network else {}
                with self.trying(turn):
                    engine = self.networks[turn.network].engine
                    one = find_nonfinite(engine, partial(self.loss, turn, step_index), on_device)
                found += [entry | name for entry in one]
        return found

    def loss(self, turn: Turn, step_index: int, batch: Batch) -> Losses:
        """Return a turn's losses of a batch on the device, under its draws of step `step_index`."""
        self.phases.enter(self.phases.phase)  # a sign of life
        return turn.loss(batch, self.randomness.draws(step_index, batch))

    @contextlib.contextmanager
    def trying(self, turn: Turn) -> Iterator[None]:
        """Compute a turn outside of its step: networks other than its own do not change, nor those joined."""
        with contextlib.ExitStack() as stack:
            engines = others(self.networks, turn.network)
            for engine in engines:
                stack.enter_context(buffers_kept(engine.module))
            stack.enter_context(constant(engines))
            yield

    def enter(self, phase: str) -> None:
        """Begin a phase of the loop."""
        self.phases.enter(phase)
        failpoint(f"step.{phase}")
