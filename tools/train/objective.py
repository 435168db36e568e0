"""The denoiser's objective on batches of latents."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from core.batch import Batch
from core.diffusion.alignment.aligned import Alignment
from core.diffusion.objective import Objective
from core.diffusion.objectives.config import ObjectiveConfig
from core.diffusion.objectives.noised import Model
from core.diffusion.paths.config import PathRecord
from core.draws import Draws
from core.losses import Losses
from data.latent.normalising import Normaliser, sample_posterior


class LatentObjective:
    """The denoiser's loss on a batch of a source: make moments, draw latents, normalise them, then diffuse.

    moments: what makes moments (B, M, C, T, H, W) of a batch's x; None where these are what arrives.
    path, density, alignment: as `Objective` takes them.  diffusion: the objective on clean latents.
    features: what makes a picture encoder's features of a batch; None where these are what arrives.
    """

    def __init__(
        self,
        config: ObjectiveConfig,
        normaliser: Normaliser,
        *,
        frame_condition: bool,
        frames_per_level: int = 0,
        moments: Callable[[Tensor], Tensor] | None = None,
        path: PathRecord | None = None,
        density: Sequence[float] | None = None,
        alignment: Alignment | None = None,
        features: Callable[[Batch], Tensor | None] | None = None,
    ) -> None:
        known: Any = {"frames_per_level": frames_per_level, "path": path, "density": density}
        known["alignment"] = alignment
        self.diffusion = Objective(config, frame_condition=frame_condition, **known)
        self._normaliser, self._moments, self._features = normaliser, moments, features

    def loss(self, model: Model, batch: Batch, draws: Draws) -> Losses:
        """Return the loss of every sample of a micro-batch."""
        features = self.features(batch, draws.step_index)
        return self.diffusion.loss(model, self.latents(batch, draws), batch.condition, draws, features)

    @torch.no_grad()
    def features(self, batch: Batch, step_index: int) -> Tensor | None:
        """Return the features that the batch is aligned with in a step, (B, F, h, w, E)."""
        if not self.diffusion.aligns(step_index):
            return None
        return batch.features if self._features is None else self._features(batch)

    @torch.no_grad()
    def latents(self, batch: Batch, draws: Draws) -> Tensor:
        """Draw the clean latents (B, C, T, H, W) of a batch, normalised."""
        moments = batch.x if self._moments is None else self._moments(batch.x)
        return self._normaliser.apply(sample_posterior(moments, draws))


class Unaligned:
    """The loss of the prediction alone, by which runs with and without alignment compare: of validation."""

    def __init__(self, whole: LatentObjective) -> None:
        self._whole = whole

    def loss(self, model: Model, batch: Batch, draws: Draws) -> Losses:
        """Return the loss of every sample of a micro-batch."""
        latents = self._whole.latents(batch, draws)
        diffusion = self._whole.diffusion
        return diffusion.prediction_loss(model, diffusion.noised(latents, batch.condition, draws))
