"""A run and a latent cache whose samples' likelihood, or its variational bound, is asked for.

Numbers are of latents, not of pixels, and are called so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from core.config.loading import to_dict
from core.distributed.device_choice import own_device
from core.errors import UserError
from core.files import fingerprint
from core.records import read_rows
from tools.evaluate.density.cache_rows import Rows, some_rows
from tools.runs import rulers
from tools.runs.loaded_run import LoadedRun, open_run
from tools.runs.objective_kind import maps_to_data

if TYPE_CHECKING:
    from data.dataset.index import Dataset
    from tools.evaluate.config import DensityConfig

FORMULAS = 1  # version of the measures, in rulers


@dataclass(frozen=True)
class Asked:
    """A run and a cache, opened.  of: what both are, by content."""

    trained: LoadedRun
    cache: Dataset
    config: DensityConfig
    of: Mapping[str, Any]

    def measured(self, path: Path) -> dict[int, dict[str, Any]]:
        """Return the rows that are there, by sample; UserError where they are of another run or cache."""
        rows = [row for row in read_rows(path) if row.get("nats") is not None] if path.exists() else []
        if any(row.get("of") != self.mark for row in rows):
            expected = "the checkpoint and the data that it was begun with, or overwrite=true"
            raise UserError("checkpoint", self.trained.checkpoint, expected)
        return {int(row["id"]): row for row in rows}

    @property
    def mark(self) -> str:
        """The key by which finished rows are recognised as those of this run and cache."""
        return fingerprint(self.of)[:16]

    def records(self, kind: str, seed: int) -> dict[str, Any]:
        """Return what scores.json has beside the scores."""
        ruler = {"measure": kind, **to_dict(self.config), "seed": seed, "real": self.of["real"]}
        ruler["formulas"] = FORMULAS
        return {rulers.OF: dict(self.of), rulers.RULER: ruler, rulers.SUBJECT: self.of["samples"]}


def opened(source: str, real: str, config: DensityConfig, device: str) -> Asked:
    """Open a run and a latent cache; UserError where these do not fit each other."""
    from data.dataset.index import Dataset

    if not real:
        raise UserError("real", "''", "a latent cache, with measure=likelihood or bound")
    if maps_to_data(Path(source)):
        expected = (
            "a run whose network gives the flow, not the data at its end as objective.kind has it there"
        )
        raise UserError("source", source, expected)
    cache = Dataset(Path(real), "real")
    trained = open_run(Path(source), config.checkpoint, config.weights, own_device(device))
    if trained.space.prediction == "posterior_mean":
        raise UserError("source", source, "a run of another prediction than posterior_mean")
    require_like(trained, cache)
    run = {name: getattr(trained, name) for name in ("checkpoint", "weights", "weights_sha256")}
    return Asked(trained, cache, config, {"samples": run, "real": cache.manifest.fingerprint})


def choose(cache: Dataset, count: int, seed: int) -> Rows:
    """Return rows of the cache that have latents: `count` at random, all for 0, in their order."""
    return np.sort(some_rows(cache, count, seed, "densities"))


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
    if trained.space.classes and tuple(cache.manifest.classes) != tuple(trained.space.classes):
        raise UserError("real", cache.place, f"a cache of the run's classes {trained.space.classes}")
