"""Prepare the input of a network on the CPU ahead of its step, in the thread that reads.

A saving and nothing else: a step without it computes the same bits itself, as it does on a GPU, which makes
them in less time than it would take to send them. `batches` and `PreparedObjective` belong together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from core.batch import Batch
from core.diffusion.objectives.noised import Model, NoisyBatch
from core.draws import Draws
from core.losses import Losses
from data.loading.ahead import read_ahead
from tools.train.objective import LatentObjective


@dataclass(frozen=True)
class Prepared:
    """A batch as the network will see it under the draws of a seed and step."""

    seed: int
    step_index: int
    noised: NoisyBatch


class PreparedObjective:
    """The plain objective, using what was prepared ahead if it is of the same draws."""

    def __init__(self, plain: LatentObjective) -> None:
        self._plain = plain

    def loss(self, model: Model, batch: Batch, draws: Draws) -> Losses:
        """Return the loss of every sample of a micro-batch."""
        ready: Prepared | None = batch.prepared
        if ready is None or (ready.seed, ready.step_index) != (draws.seed, draws.step_index):
            return self._plain.loss(model, batch, draws)
        features = self._plain.features(batch, draws.step_index)
        return self._plain.diffusion.loss_of(model, ready.noised, features, draws.step_index)


def batches(
    load: Callable[[int], list[Batch]], depth: int, objective: LatentObjective, seed: int
) -> Callable[[int], Iterator[list[Batch]]]:
    """Return steps from a given one on, whose batches hold what the objective would make of them.

    load: gives the micro-batches of a step.  depth: steps read ahead.
    """

    def make(step_index: int) -> list[Batch]:
        return [prepare(objective, batch, seed, step_index) for batch in load(step_index)]

    return lambda step_index: read_ahead(make, step_index, depth)


def prepare(objective: LatentObjective, batch: Batch, seed: int, step_index: int) -> Batch:
    """Return the batch with what the objective would make of it in a step."""
    draws = Draws(seed, step_index, batch.id, batch.position)
    return replace(batch, prepared=Prepared(seed, step_index, objective.noised(batch, draws)))
