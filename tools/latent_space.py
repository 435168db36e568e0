"""What a run keeps of its latents, `latents.json` and `autoencoder/`: with weights, all that sampling needs.

A run folder can so be moved to another machine without the cache it was trained on.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from core.config import read_yaml
from core.diffusion.objective import ObjectiveConfig
from core.errors import UserError
from core.files import fsync_folder, temporary_name, write_json
from core.outputs import CONFIG_NAME
from core.settings import setting
from data.index import Dataset
from data.latents import Normaliser, compare, require_same
from models.autoencoder import identify, open_autoencoder, store
from models.autoencoder.opening import files

LATENTS, AUTOENCODER = "latents.json", "autoencoder"
TEXT_FOLDER = "text_folder"  # in latents.json; it may move, so it is not compared


@dataclass(frozen=True, kw_only=True)
class LatentsConfig:
    """What the network sees of latents."""

    normalise: Literal["measured", "encoder"] = setting(
        "measured",
        "measured: by mean and deviation over the cache; encoder: as the authors of a public autoencoder do",
    )


def choose_normaliser(cache: Dataset, config: LatentsConfig) -> Normaliser:
    """How latents are brought to unit scale; UserError where the autoencoder does not say how."""
    if config.normalise == "measured":
        return Normaliser.of(cache.manifest)
    own = cache.manifest.extra["made_from"].get("normalisation")
    if not own:
        expected = f"measured, since the autoencoder of {cache.folder} has no normalisation of its own"
        raise UserError("latents.normalise", config.normalise, expected)
    normaliser = Normaliser.from_dict(own)
    longest = max(frames for _, frames, _, _ in latent_shapes(cache))
    if 0 < normaliser.frames < longest:
        expected = f"measured: the autoencoder's own is for {normaliser.frames} latent frames, not {longest}"
        raise UserError("latents.normalise", config.normalise, expected)
    return normaliser


def keep_latent_space(
    run: Path,
    cache: Dataset,
    autoencoder: Path,
    objective: ObjectiveConfig,
    latents: LatentsConfig = LatentsConfig(),
    *,
    text: bool = False,
) -> None:
    """Publish `autoencoder/` and then `latents.json` in the run folder, once; they stay as they are.

    UserError where the run was begun on another cache than `cache` now is (the differing field, both values).
    """
    record = describe(cache, objective, latents, text=text)
    if (run / LATENTS).exists():
        before = json.loads((run / LATENTS).read_text(encoding="utf-8"))
        before[TEXT_FOLDER] = record[TEXT_FOLDER]
        if (differs := compare(before, record)) is not None:
            field, was, now = differs
            raise UserError(f"{run} was begun with {field}={was}; in {cache.folder} it is {now}")
        return
    copy_autoencoder(autoencoder, run)
    write_json(run / LATENTS, record)


def describe(
    cache: Dataset, objective: ObjectiveConfig, latents: LatentsConfig, *, text: bool
) -> dict[str, Any]:
    """The content of `latents.json`.

    mean, std: per channel; the network sees (latent - mean) / std.  normalise: whence these are.  encoder,
    cache: fingerprints.  text: what embedded the captions, None if the network takes none; text_folder: where
    that lay.
    classes: names by label.  shapes: [C, T, H, W] of each bucket, the one with most samples first.
    path, prediction, learned_sigma: how the network was trained, as in `core.diffusion`.
    """
    counts = np.bincount(cache.index["bucket"], minlength=len(cache.manifest.buckets))
    counts = counts[: len(cache.manifest.buckets)]  # behind them, rows that fit no bucket
    return {
        **choose_normaliser(cache, latents).as_dict(),
        "normalise": latents.normalise,
        "text": text_encoder(cache) if text else None,
        TEXT_FOLDER: _recorded(cache.folder, "text_encoder") if text else "",
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


def text_encoder(cache: Dataset) -> dict[str, Any] | None:
    """What embedded the captions of the cache, as `models.text` describes it; None where there are none."""
    found: dict[str, Any] | None = cache.manifest.extra["made_from"].get("text")
    return found


def find_autoencoder(cache: Dataset, configured: str) -> Path:
    """The folder of the autoencoder that made the cache: the configured one, or the one `encode` was given.

    UserError where there is none, or where it is another one (the differing field and both values).
    """
    folder = Path(configured or _recorded(cache.folder, "autoencoder"))
    try:
        folder = store.locate(folder)
    except UserError:
        made_by = encoder_fingerprint(cache)[:12]
        expected = f"the folder of the autoencoder {made_by}, which made the cache"
        raise UserError("autoencoder", folder, expected) from None
    now = identify(open_autoencoder(folder))
    wanted = {name: now[name] for name in ("encoder_config", "encoder")}
    require_same(cache.folder, cache.manifest.extra["made_from"], wanted)
    return folder


def copy_autoencoder(source: Path, run: Path) -> None:
    """Publish the autoencoder's folder as RUN/autoencoder, whole or not at all."""
    target = run / AUTOENCODER
    temporary = temporary_name(target)
    try:
        temporary.mkdir(parents=True)
        for path in files(source):
            shutil.copyfile(path, temporary / path.name)
        if target.exists():
            shutil.rmtree(target)
        temporary.rename(target)
        fsync_folder(run)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _recorded(cache: Path, field: str) -> str:
    """A field of the config with which `encode` made the cache."""
    config = cache / CONFIG_NAME
    if not config.is_file():
        raise UserError(field, "''", f"a folder, since {cache} has no {CONFIG_NAME} that names it")
    return str(read_yaml(config).get(field, ""))
