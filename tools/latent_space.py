"""What a run keeps of its latents, `latents.json` and `autoencoder/`: with weights, all that sampling needs.

A run folder can so be moved to another machine without the cache it was trained on.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from core.config import read_yaml
from core.diffusion.objective import ObjectiveConfig
from core.errors import UserError
from core.files import fsync_folder, temporary_name, write_json
from core.outputs import CONFIG_NAME
from data.index import Dataset
from data.latents import Normaliser, compare, require_same
from models.autoencoder import store

LATENTS, AUTOENCODER = "latents.json", "autoencoder"


def keep_latent_space(run: Path, cache: Dataset, autoencoder: Path, objective: ObjectiveConfig) -> None:
    """Publish `autoencoder/` and then `latents.json` in the run folder, once; they stay as they are.

    UserError where the run was begun on another cache than `cache` now is (the differing field, both values).
    """
    record = describe(cache, objective)
    if (run / LATENTS).exists():
        before = json.loads((run / LATENTS).read_text(encoding="utf-8"))
        if (differs := compare(before, record)) is not None:
            field, was, now = differs
            raise UserError(f"{run} was begun with {field}={was}; in {cache.folder} it is {now}")
        return
    copy_autoencoder(autoencoder, run)
    write_json(run / LATENTS, record)


def describe(cache: Dataset, objective: ObjectiveConfig) -> dict[str, Any]:
    """The content of `latents.json`.

    mean, std: per channel; the network sees (latent - mean) / std.  encoder, cache: fingerprints.
    classes: names by label.  shapes: [C, T, H, W] of each bucket, the one with most samples first.
    path, prediction, learned_sigma: how the network was trained, as in `core.diffusion`.
    """
    counts = np.bincount(cache.index["bucket"], minlength=len(cache.manifest.buckets))
    counts = counts[: len(cache.manifest.buckets)]  # behind them, rows that fit no bucket
    return {
        **Normaliser.of(cache.manifest).as_dict(),
        "cache": cache.manifest.fingerprint,
        "encoder": encoder_fingerprint(cache),
        "classes": list(cache.manifest.classes),
        "shapes": [list(latent_shapes(cache)[bucket]) for bucket in np.argsort(-counts, kind="stable")],
        "path": objective.path,
        "prediction": objective.prediction,
        "learned_sigma": objective.learned_sigma,
    }


def latent_shapes(cache: Dataset) -> list[tuple[int, int, int, int]]:
    """(C, T, H, W) of each bucket."""
    return [(c, t, h, w) for _, c, t, h, w in cache.manifest.buckets]


def encoder_fingerprint(cache: Dataset) -> str:
    """Of the weights and configuration of the autoencoder that made the cache."""
    return str(cache.manifest.extra["made_from"]["encoder"])


def find_autoencoder(cache: Dataset, configured: str) -> Path:
    """The folder of the autoencoder that made the cache: the configured one, or the one `encode` was given.

    UserError where there is none, or where it is another one (the differing field and both values).
    """
    folder = Path(configured or _recorded_autoencoder(cache.folder))
    try:
        folder = store.locate(folder)
    except UserError:
        made_by = encoder_fingerprint(cache)[:12]
        expected = f"the folder of the autoencoder {made_by}, which made the cache"
        raise UserError("autoencoder", folder, expected) from None
    autoencoder = store.load(folder)
    config = json.loads(json.dumps(asdict(autoencoder.config)))  # tuples become lists, as in the manifest
    wanted = {"encoder_config": config, "encoder": store.fingerprint(autoencoder)}
    require_same(cache.folder, cache.manifest.extra["made_from"], wanted)
    return folder


def copy_autoencoder(source: Path, run: Path) -> None:
    """Publish the autoencoder's folder as RUN/autoencoder, whole or not at all."""
    target = run / AUTOENCODER
    temporary = temporary_name(target)
    try:
        temporary.mkdir(parents=True)
        for name in (store.WEIGHTS, store.CONFIG):
            shutil.copyfile(source / name, temporary / name)
        if target.exists():
            shutil.rmtree(target)
        temporary.rename(target)
        fsync_folder(run)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _recorded_autoencoder(cache: Path) -> str:
    """The `autoencoder` field of the config with which `encode` made the cache."""
    config = cache / CONFIG_NAME
    if not config.is_file():
        raise UserError("autoencoder", "''", f"a folder, since {cache} has no {CONFIG_NAME} that names it")
    return str(read_yaml(config).get("autoencoder", ""))
