"""Count the work of a micro-batch, for a run's speed in tokens and operations."""

from __future__ import annotations

from collections.abc import Callable

from core.batch import Batch
from models.denoisers.network import DenoiserConfig, train_flops
from models.layers.embeddings import Grid


class Workload:
    """Counts tokens and operations of micro-batches.

    The numbers for a sample of each shape are computed once.

    latent_grid: (T, H, W) of the latents that the network sees of a batch whose own are given.
    passes: of the network in a step of the objective (`ObjectiveConfig.passes`).
    """

    def __init__(self, model: DenoiserConfig, latent_grid: Callable[[Grid], Grid], passes: int) -> None:
        self._model, self._latent_grid, self._passes = model, latent_grid, passes
        self._of_a_sample: dict[tuple[int, ...], tuple[int, int]] = {}

    def of(self, batch: Batch) -> tuple[int, int]:
        """Count a micro-batch's tokens, and the operations of its loss and gradient without recomputation."""
        tokens, flops = self._of_sample(batch)
        return len(batch) * tokens, len(batch) * flops

    def _of_sample(self, batch: Batch) -> tuple[int, int]:
        text = batch.condition.text
        frames, rows, columns = batch.x.shape[-3:]
        key = (frames, rows, columns, 0 if text is None else text.shape[1])
        if key not in self._of_a_sample:
            grid = self._latent_grid((frames, rows, columns))
            tokens = self._model.tokens(grid)
            flops = train_flops(self._model, grid, key[3], passes=self._passes)
            self._of_a_sample[key] = (tokens, flops)
        return self._of_a_sample[key]
