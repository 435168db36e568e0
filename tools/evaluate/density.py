"""Likelihood, or the variational bound, of the samples of a latent cache under a run.

Numbers are of latents, not of pixels, and are called so. A row a sample is written as soon as it is known, so
that the same command goes on after a kill; scores.json, the means, comes last.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from core.batch import Condition
from core.config.loading import to_dict
from core.diffusion.estimating import estimating
from core.diffusion.grids import make_grid
from core.diffusion.guidance.branches import Branch, Branches, guided_by
from core.diffusion.guidance.mixing import Guidance
from core.diffusion.likelihood import MOST_EXACT, log_likelihood, variational_bound
from core.diffusion.paths.kinds import make_path
from core.diffusion.paths.path import Path as NoisePath
from core.diffusion.solvers.adaptive import LAST
from core.diffusion.solvers.levels import Denoise
from core.diffusion.thresholds import ThresholdConfig
from core.distributed.device_choice import own_device
from core.draws import Draws, permutation
from core.errors import UserError
from core.files import fingerprint
from core.progress import Progress
from core.records import append_shared, read_rows
from data.latent.normalising import Normaliser, sample_posterior
from data.latent.reading import LatentReader, reader_of
from data.latent.text_reading import TextReader, has_text
from tools.runs import rulers
from tools.runs.loaded_run import LoadedRun, open_run

if TYPE_CHECKING:
    from data.dataset.index import Dataset
    from tools.evaluate.config import DensityConfig

ROWS = "densities.jsonl"  # in the output: a row a sample


@dataclass(frozen=True)
class Measured:
    """-log p in nats of the normalised latents of each sample of a batch, and its parts."""

    nats: Tensor
    parts: Mapping[str, Tensor]


@dataclass(frozen=True)
class Asked:
    """A run and a cache, opened.  of: what both are, by content."""

    trained: LoadedRun
    cache: Dataset
    config: DensityConfig
    of: Mapping[str, Any]

    def measure(self, kind: str, output: Path, *, seed: int) -> dict[str, Any]:
        """Measure what is missing, a row a sample, and return scores.json: means over all.

        kind: "likelihood" or "bound".
        """
        path, mark, ids = output / ROWS, fingerprint(self.of)[:16], self.cache.index["id"]
        done = self._measured(path, mark)
        chosen = choose(self.cache, self.config.count, seed)
        left = [row for row in chosen if int(ids[row]) not in done]
        with Progress(len(chosen), "measuring", done=len(chosen) - len(left)) as progress:
            reader = reader_of(self.cache)
            for batch in _batches(self.cache, left, self.config.batch):
                for row in _of_batch(self.trained, self.cache, reader, batch, self.config, kind, seed):
                    append_shared(path, row | {"of": mark})
                progress.advance(len(batch))
        kept = self._measured(path, mark)
        scores = summary([kept[int(ids[row])] for row in chosen])
        ruler = {"measure": kind, **to_dict(self.config), "seed": seed, "real": self.of["real"]}
        made = {rulers.OF: dict(self.of), rulers.RULER: ruler, rulers.SUBJECT: self.of["samples"]}
        return {**scores, **made}

    def _measured(self, path: Path, mark: str) -> dict[int, dict[str, Any]]:
        """Return the rows that are there, by sample; UserError where they are of another run or cache."""
        rows = [row for row in read_rows(path) if "nats" in row] if path.exists() else []
        if any(row.get("of") != mark for row in rows):
            expected = "the checkpoint and the data that it was begun with, or overwrite=true"
            raise UserError("checkpoint", self.trained.checkpoint, expected)
        return {int(row["id"]): row for row in rows}


def opened(source: str, real: str, config: DensityConfig, device: str) -> Asked:
    """Open a run and a latent cache; UserError where these do not fit each other."""
    from data.dataset.index import Dataset

    if not real:
        raise UserError("real", "''", "a latent cache, with measure=likelihood or bound")
    cache = Dataset(Path(real), "real")
    trained = open_run(Path(source), config.checkpoint, config.weights, own_device(device))
    require_like(trained, cache)
    run = {name: getattr(trained, name) for name in ("checkpoint", "weights", "weights_sha256")}
    return Asked(trained, cache, config, {"samples": run, "real": cache.manifest.fingerprint})


def table(scores: Mapping[str, Any], kind: str) -> str:
    """Lay the numbers out for a terminal."""
    sign = "at most " if kind == "bound" else ""
    lines = [f"-log p of latents, {sign}a mean over {scores['samples']} samples"]
    for what, name in (("normalised", ""), ("as the autoencoder gives them", "raw_")):
        nats, bits = (scores[f"{unit}_per_{name}dimension"] for unit in ("nats", "bits"))
        lines.append(f"{what:32}{nats:10.4f} nats a number{bits:10.4f} bits a number")
    return "\n".join([*lines, f"{'standard error':32}{scores['standard_error']:10.4f} nats a number"])


def choose(cache: Dataset, count: int, seed: int) -> list[int]:
    """Return rows of the cache that have latents: `count` at random, all for 0, in their order."""
    there = np.flatnonzero(cache.index["size"] > 0)
    if count and count < len(there):
        there = np.sort(there[permutation(seed, "densities", (), len(there))[:count]])
    return there.tolist()


def _batches(cache: Dataset, rows: list[int], size: int) -> Iterator[np.ndarray]:
    """Yield rows of one shape, at most `size` at once."""
    buckets = np.asarray(cache.index["bucket"])[rows] if rows else np.array([], np.int64)
    for bucket in np.unique(buckets):
        some = np.array(rows)[buckets == bucket]
        for start in range(0, len(some), size):
            yield some[start : start + size]


def _of_batch(
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
    found = (_likelihood if kind == "likelihood" else _bound)(denoise, x0, path, draws.to(device), config)
    numbers, change = x0[0].numel(), log_determinant(normaliser, latents)
    records = []
    for place, number in enumerate(ids.tolist()):
        nats = float(found.nats[place])
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


def _bound(denoise: Denoise, x0: Tensor, path: NoisePath, draws: Draws, config: DensityConfig) -> Measured:
    steps = min(config.bound_steps, path.num_steps or config.bound_steps)
    times = make_grid("even", path, steps, 1.0)
    if path.num_steps is None:
        times = [*times[:-1], max(path.first, LAST)]
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


def require_like(trained: LoadedRun, cache: Dataset) -> None:
    """Refuse a cache of other latents than the run's, and a network whose levels do not fit."""
    if cache.manifest.kind != "latent":
        raise UserError("real", cache.place, "a latent cache, with measure=likelihood or bound")
    encoder = cache.manifest.extra["made_from"]["encoder"]
    if encoder != trained.space.encoder:
        expected = (
            f"latents of the run's autoencoder {trained.space.encoder[:12]}; these are of {encoder[:12]}"
        )
        raise UserError("real", cache.place, expected)
    if trained.space.prediction == "posterior_mean":
        raise UserError("source", "prediction=posterior_mean", "a run of another prediction")
    if trained.space.classes and tuple(cache.manifest.classes) != tuple(trained.space.classes):
        raise UserError("real", cache.place, f"a cache of the run's classes {trained.space.classes}")


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return means over samples, each number of a latent counting alike, and their standard error."""
    numbers = np.array([row["numbers"] for row in rows], float)
    nats = np.array([row["nats"] for row in rows], float)
    change = np.array([row["log_determinant"] for row in rows], float)
    each = nats / numbers
    total = numbers.sum()
    scores = {
        "nats_per_dimension": float(nats.sum() / total),
        "bits_per_dimension": float(nats.sum() / total / math.log(2)),
        "nats_per_raw_dimension": float((nats + change).sum() / total),
        "bits_per_raw_dimension": float((nats + change).sum() / total / math.log(2)),
        "standard_error": float(each.std(ddof=1) / math.sqrt(len(each))) if len(each) > 1 else math.nan,
        "log_determinant_per_dimension": float(change.sum() / total),
        "samples": len(rows),
    }
    for name in ("prior", "steps_nats", "last"):
        if rows and name in rows[0]:
            scores[f"{name}_per_dimension"] = float(sum(row[name] for row in rows) / total)
    return scores
