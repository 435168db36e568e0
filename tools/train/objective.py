"""The denoiser's objective on batches of latents, and what of it can be made ahead of a step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from core.batch import Batch
from core.diffusion.objective import Model, Noised, Objective, ObjectiveConfig
from core.draws import Draws
from core.losses import Losses
from data.latent.normalising import Normaliser, sample_posterior
from data.loading.ahead import read_ahead


class LatentObjective:
    """The denoiser's loss on a batch of a source: make moments, draw latents, normalise them, then diffuse.

    moments: what makes moments (B, M, C, T, H, W) of a batch's x; None where these are what arrives.
    """

    def __init__(
        self,
        config: ObjectiveConfig,
        normaliser: Normaliser,
        *,
        frame_condition: bool,
        moments: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self._normaliser, self._objective = normaliser, Objective(config, frame_condition=frame_condition)
        self._moments = moments

    def loss(self, model: Model, batch: Batch, draws: Draws) -> Losses:
        """The loss of every sample of a micro-batch."""
        ready: Prepared | None = batch.prepared
        if ready is None or (ready.seed, ready.step_index) != (draws.seed, draws.step_index):
            ready = self.prepare(batch, draws)
        return self._objective.loss_of(model, ready.noised)

    @torch.no_grad()
    def prepare(self, batch: Batch, draws: Draws) -> Prepared:
        """All of `loss` that comes before the network."""
        moments = batch.x if self._moments is None else self._moments(batch.x)
        latents = self._normaliser.apply(sample_posterior(moments, draws))
        return Prepared(draws.seed, draws.step_index, self._objective.noised(latents, batch.condition, draws))


@dataclass(frozen=True)
class Prepared:
    """A batch as the network will see it under the draws of a seed and step."""

    seed: int
    step_index: int
    noised: Noised


def read_prepared(
    load: Callable[[int], list[Batch]], depth: int, objective: LatentObjective, seed: int
) -> Callable[[int], Iterator[list[Batch]]]:
    """Steps from a given one on, of which the reading thread also makes what the network will be shown.

    load: gives the micro-batches of a step.  depth: steps read ahead.
    For a network on the CPU; a GPU makes the same itself, in less time than it would take to send.
    """

    def prepared(step_index: int) -> list[Batch]:
        return [_prepared(step_index, batch) for batch in load(step_index)]

    def _prepared(step_index: int, batch: Batch) -> Batch:
        draws = Draws(seed, step_index, batch.id, batch.position)
        return replace(batch, prepared=objective.prepare(batch, draws))

    return lambda step_index: read_ahead(prepared, step_index, depth)
