"""What a run keeps of its latents, `latents.json` and `autoencoder/`: with weights, all that sampling needs.

A run folder can so be moved to another machine without the cache it was trained on.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np

from core.config import read_yaml
from core.diffusion.objective import ObjectiveConfig
from core.errors import UserError
from core.files import fsync_folder, temporary_name, write_json
from core.outputs import CONFIG_NAME
from data.index import Dataset
from data.latents import Normaliser, require_same
from models.autoencoder import store

LATENTS, AUTOENCODER = "latents.json", "autoencoder"


def write_latent_space(run: Path, cache: Dataset, objective: ObjectiveConfig) -> None:
    """Publish `latents.json` in the run folder.

    mean, std: per channel; the network sees (latent - mean) / std.  encoder, cache: fingerprints.
    classes: names by label.  shapes: [C, T, H, W] of each bucket, the one with most samples first.
    path, prediction, learned_sigma: how the network was trained, as in `core.diffusion`.
    """
    counts = np.bincount(cache.index["bucket"], minlength=len(cache.manifest.buckets))
    counts = counts[: len(cache.manifest.buckets)]  # behind them, rows that fit no bucket
    frequent = np.argsort(-counts, kind="stable")
    record = {
        **Normaliser.of(cache.manifest).as_dict(),
        "encoder": encoder_fingerprint(cache),
        "cache": cache.manifest.fingerprint,
        "classes": list(cache.manifest.classes),
        "shapes": [list(latent_shapes(cache)[bucket]) for bucket in frequent],
        "path": objective.path,
        "prediction": objective.prediction,
        "learned_sigma": objective.learned_sigma,
    }
    write_json(run / LATENTS, record)


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
