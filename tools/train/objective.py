"""The denoiser's objective on batches of latents."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from core.batch import Batch
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
    path, density: as the run records them.  diffusion: the objective on clean latents.
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
    ) -> None:
        known: Any = {"frames_per_level": frames_per_level, "path": path, "density": density}
        self.diffusion = Objective(config, frame_condition=frame_condition, **known)
        self._normaliser, self._moments = normaliser, moments

    def loss(self, model: Model, batch: Batch, draws: Draws) -> Losses:
        """Return the loss of every sample of a micro-batch."""
        return self.diffusion.loss(model, self.latents(batch, draws), batch.condition, draws)

    @torch.no_grad()
    def latents(self, batch: Batch, draws: Draws) -> Tensor:
        """Draw the clean latents (B, C, T, H, W) of a batch, normalised."""
        moments = batch.x if self._moments is None else self._moments(batch.x)
        return self._normaliser.apply(sample_posterior(moments, draws))
