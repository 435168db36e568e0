"""Density of the samples of one batch: -log p of their normalised latents, or its bound."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from core.batch import Condition
from core.diffusion.estimating import estimating
from core.diffusion.finite import FiniteWatch
from core.diffusion.grids import make_grid
from core.diffusion.guidance.branches import Branch, Branches, guided_by
from core.diffusion.guidance.mixing import Guidance
from core.diffusion.likelihood import MOST_EXACT, log_likelihood, variational_bound
from core.diffusion.paths.kinds import make_path
from core.diffusion.paths.path import Path as NoisePath
from core.diffusion.solvers.adaptive import LAST
from core.diffusion.solvers.levels import Denoise
from core.diffusion.thresholds import ThresholdConfig
from core.draws import Draws
from core.errors import WorkError
from data.latent.normalising import Normaliser, sample_posterior
from data.latent.reading import LatentReader
from data.latent.text_reading import TextReader, has_text
from tools.runs.loaded_run import LoadedRun

if TYPE_CHECKING:
    from data.dataset.index import Dataset
    from tools.evaluate.config import DensityConfig


@dataclass(frozen=True)
class Measured:
    """-log p in nats of the normalised latents of each sample of a batch, and its parts."""

    nats: Tensor
    parts: Mapping[str, Tensor]


def of_batch(
    trained: LoadedRun,
    cache: Dataset,
    reader: LatentReader,
    rows: np.ndarray,
    config: DensityConfig,
    kind: str,
    seed: int,
) -> list[dict[str, Any]]:
    device = next(trained.model.parameters()).device
    entries = reader.entries(rows)
    ids = torch.from_numpy(entries["id"].astype(np.int64))
    draws = Draws(seed, 0, ids, torch.zeros_like(ids))
    moments = reader.gather(rows)
    latents = sample_posterior(moments if config.posterior == "draw" else moments[:, :1], draws)
    normaliser = trained.space.normaliser
    x0 = normaliser.apply(latents).double().to(device)
    denoise = denoiser(trained, _condition(trained, cache, reader, rows, entries, device), x0.shape[1])
    path = make_path(trained.space.path)
    watch = FiniteWatch(ids.to(device), at_once=True)
    with watch.naming():
        measure = _likelihood if kind == "likelihood" else _bound
        found = measure(watch.over(denoise), x0, path, draws.to(device), config)
    numbers, change = x0[0].numel(), log_determinant(normaliser, latents)
    records = []
    for place, number in enumerate(ids.tolist()):
        nats = float(found.nats[place])
        if not math.isfinite(nats):
            raise WorkError(f"sample {number}: its {kind} is {nats}, though all estimates are finite")
        more = {name: float(value[place]) for name, value in found.parts.items()}
        records.append({"id": number, "nats": nats, "numbers": numbers, "log_determinant": change, **more})
    return records


def log_determinant(normaliser: Normaliser, latents: Tensor) -> float:
    """Return the log of the volume of raw latents beside that of normalised ones: the sum of log std."""
    like = torch.ones_like(latents[:1], dtype=torch.float64)
    scale = normaliser.undo(like) - normaliser.undo(torch.zeros_like(like))
    return float(scale.log().sum())


def _likelihood(
    denoise: Denoise, x0: Tensor, path: NoisePath, draws: Draws, config: DensityConfig
) -> Measured:
    """Average the estimates of all probes; up to 64 numbers the trace is exact."""
    exact = x0[0].numel() <= MOST_EXACT
    found = []
    for number in range(1 if exact else config.probes):
        signs = None
        if not exact:
            signs = torch.where(draws.uniform(f"probe_{number}", tuple(x0.shape[1:])) < 0.5, -1.0, 1.0)
        found.append(log_likelihood(denoise, x0, path, probe=signs, tolerance=config.tolerance))
    steps = torch.stack([each.steps for each in found]).sum(0)
    return Measured(-torch.stack([each.log_density for each in found]).mean(0), {"steps": steps})


def bound_times(path: NoisePath, steps: int) -> list[float]:
    """Return the falling times of the sampler whose bound it is: even ones, to the least that is trained."""
    times = make_grid("even", path, min(steps, path.num_steps or steps), 1.0)
    if path.num_steps is not None:
        return list(times)
    end = max(path.first, LAST)
    return [*(time for time in times if time > end), end]


def _bound(denoise: Denoise, x0: Tensor, path: NoisePath, draws: Draws, config: DensityConfig) -> Measured:
    times = bound_times(path, config.bound_steps)
    with torch.no_grad():
        found = variational_bound(
            denoise, x0, times, path, noise=lambda n: draws.normal(f"bound_{n}", tuple(x0.shape[1:]))
        )
    parts = {"prior": found.prior, "steps_nats": found.steps, "last": found.last}
    return Measured(found.total, parts)


def denoiser(trained: LoadedRun, condition: Condition, channels: int) -> Denoise:
    """Return the network's estimates in float64, without guidance; it computes in its own dtype."""
    space = trained.space

    def model(x: Tensor, time: Tensor, condition: Condition) -> Tensor:
        output: Tensor = trained.model(x.float(), time, condition)
        return output.double()

    branches = Branches((Branch(model, condition),))
    return estimating(
        guided_by(branches),
        Guidance(),
        ThresholdConfig(),
        make_path(space.path),
        space.prediction,
        channels,
        learned_sigma=space.learned_sigma,
    )


def _condition(
    trained: LoadedRun,
    cache: Dataset,
    reader: LatentReader,
    rows: np.ndarray,
    entries: np.ndarray,
    device: torch.device,
) -> Condition:
    """Return class and text of samples, as far as the run takes them; of several captions the first."""
    label = torch.from_numpy(entries["label"].astype(np.int64)) if trained.space.classes else None
    condition = Condition(label=label)
    if trained.space.text is not None and has_text(cache.manifest):
        texts = TextReader(cache.folder, cache.manifest, reader.parts)
        tokens, lengths = texts.gather(rows, entries["shard"])
        condition = Condition(label=label, text=tokens, text_length=lengths)
    return condition.to(device)
