"""The definition of a training step, for which a job may hand in its own; and one step under way.

A kind of step is a class with the protocol `Stepper`, in a file of its own. `single.py` is the kind for one
network with one loss.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from core.batch import Batch
from core.distributed.agreement import StepAgreement
from core.draws import Draws
from core.engine.engine import StepResult
from core.engine.network import Networks
from core.engine.restoring import constant
from core.errors import UserError
from core.faults.failpoints import failpoint
from core.faults.out_of_memory import out_of_memory
from core.losses import Losses, Objective
from core.metrics.phases import Phases
from core.metrics.shape_times import ShapeTimes
from core.metrics.step_sums import StepSums
from core.optim.groups import learning_rate
from core.train.randomness import Randomness

_NOTHING = contextlib.nullcontext()


class Turn(NamedTuple):
    """One network's update in a step: by the mean of this loss over the step's samples.

    The loss may use other networks of the run, by calling their engines. These are fixed functions in the
    turn: gradients go through them and none stays in them.
    joined: networks that are updated by the same loss, after this one; it calls them by
    `core.engine.joined.joined`.
    """

    network: str
    loss: Callable[[Batch, Draws], Losses]
    joined: tuple[str, ...] = ()

    @property
    def updates(self) -> tuple[str, ...]:
        """Return the networks that the turn updates, in order."""
        return (self.network, *self.joined)


class Stepper(Protocol):
    """A kind of step: which networks are trained, by which losses, in which order.

    networks: by name, MAIN among them.  validated: the loss that validation takes, with the main network;
    None where there is no such loss.

    A step must be a function of the networks, `state()` and its number, so that it can be repeated: the loop
    computes turns again to try the largest batches first, to look for what made a gradient not finite, and to
    check the machine. `turns` and the losses therefore change nothing; `update` may.
    """

    networks: Networks
    validated: Objective | None

    def turns(self, step_index: int) -> Sequence[Turn]:
        """Return the updates of step `step_index`, in order; each network at most once."""
        ...

    def rehearsed(self, step_index: int) -> Sequence[Turn]:
        """Return the turns to try with the largest batches before step `step_index`, one of each kind."""
        return self.turns(step_index)

    def update(self, step: Step) -> None:
        """Do the updates of `step.turns`, and the work around them.

        An update whose gradient is not finite is skipped on all ranks alike, and the later ones are done.
        """
        for turn in step.turns:
            step.take(turn)

    def state(self) -> dict[str, Any]:
        """Return a checkpoint's entries beside networks and averages: plain JSON values."""
        return {}

    def load(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state` returned."""
        if state:
            raise UserError(f"the checkpoint is of another kind of step, which keeps {', '.join(state)}")


@dataclass
class Step:
    """One step under way, on one rank.

    step_index: counted from 0, of `steps`.  turns: of the stepper.  clipping: the largest gradient norm of
    each network, 0 is any.  sums: collects losses.  results: of the updates so far, by network.
    """

    step_index: int
    steps: int
    turns: Sequence[Turn]
    micro_batches: Sequence[Batch]
    networks: Networks
    clipping: Mapping[str, float]
    sums: StepSums
    agreement: StepAgreement
    phases: Phases
    randomness: Randomness
    shape_times: ShapeTimes | None = None
    results: dict[str, StepResult] = field(default_factory=dict)

    def take(self, turn: Turn) -> StepResult:
        """Minimise the mean of a turn's loss over the true samples of all ranks (collective).

        A sample's weight is 1, or 0 where it could not be read. Ranks that share its tokens each count it, in
        the sum and in the total alike. Without any sample the mean is 0/0: the gradients are not finite and
        the update is skipped, on all ranks alike.
        """
        engine, number = self.networks[turn.network].engine, len(self.results)
        timed = None if number else self.shape_times  # the first turn measures a group's cost
        self.randomness.seed_torch(self.step_index, number)
        # A network alone has no others to hold constant; to enter the context would take time in every step.
        alone = len(self.networks) == 1
        with _NOTHING if alone else constant(others(self.networks, *turn.updates)):
            for place, batch in enumerate(self.micro_batches, 1):
                if timed:
                    timed.begin(batch)
                try:
                    batch = batch.to(engine.world.device)
                    # Nothing else refers to the loss: its graph goes before the next one is made.
                    engine.backward(
                        self._share_of_loss(turn, batch), is_last=place == len(self.micro_batches)
                    )
                except torch.OutOfMemoryError as error:
                    where = f"step {self.step_index + 1}, micro-batch {place} of {len(self.micro_batches)}"
                    raise out_of_memory(error, where, engine.world.rank, batch) from error
        if timed:
            timed.end()
        result = self.apply(turn.network)
        for name in turn.joined:
            self.apply(name)
        return result

    def apply(self, network: str) -> StepResult:
        """Update a network by the gradients that its engine has been given (collective)."""
        if network in self.results:
            raise ValueError(f"network {network!r}: expected one update in a step")
        self.enter("update")
        engine = self.networks[network].engine
        engine.before_change()
        result = engine.step(
            learning_rate(engine.optimizer, self.step_index, self.steps), self.clipping[network]
        )
        self.results[network] = result
        return result

    def _share_of_loss(self, turn: Turn, batch: Batch) -> Tensor:
        """Return a device batch's part of the turn's mean loss; its losses are noted in `sums`."""
        self.enter("forward")
        losses = turn.loss(batch, self.randomness.draws(self.step_index, batch))
        self.sums.add(losses, batch.weight, turn.network)
        kept = losses.loss
        if not self.agreement.all_count:
            kept = torch.where(batch.weight > 0, kept, 0.0) * batch.weight
        self.enter("backward")  # before the total is asked for: a rank may wait for others there
        total = self.agreement.total_weight()
        if isinstance(total, float) and total == len(batch):  # all of the step's samples: in one go
            return failpoint("step.loss", kept.mean())
        return failpoint("step.loss", kept.sum()) / total

    def enter(self, phase: str) -> None:
        """Begin a phase of the step."""
        self.phases.enter(phase)
        failpoint(f"step.{phase}")


def others(networks: Networks, *names: str) -> list[Any]:
    """Return the engines of all networks but these."""
    return [network.engine for other, network in networks.items() if other not in names]
