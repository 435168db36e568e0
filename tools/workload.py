"""How much work a micro-batch is, for a run's speed in tokens and operations."""

from __future__ import annotations

import math

from core.batch import Batch
from data.index import Dataset
from models.dit import DiTConfig
from models.embeddings import Grid
from models.flops import train_flops
from tools.online import OnlineCache


def tokens(model: DiTConfig, dataset: Dataset, batch: Batch) -> int:
    """Tokens of a micro-batch, over its samples."""
    return len(batch) * math.prod(model.grid(latent_grid(dataset, batch)))


def flops(model: DiTConfig, dataset: Dataset, batch: Batch) -> int:
    """Operations of the network's forward and backward pass over a micro-batch, recomputation not counted."""
    text = batch.condition.text
    text_tokens = 0 if text is None else text.shape[1]
    return len(batch) * train_flops(model, latent_grid(dataset, batch), text_tokens)


def latent_grid(dataset: Dataset, batch: Batch) -> Grid:
    """(T, H, W) of the latents that the network sees of `batch`."""
    frames, rows, columns = batch.x.shape[-3:]
    shape = (frames, rows, columns)
    return dataset.latent_grid(shape) if isinstance(dataset, OnlineCache) else shape
