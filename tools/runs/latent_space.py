"""What a run keeps of its latents, `latents.json` and `autoencoder/`: with weights, all that sampling needs.

A run folder can so be moved to another machine without the cache it was trained on.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from core.config.loading import read_yaml
from core.config.settings import setting
from core.diffusion.objective import ObjectiveConfig
from core.errors import UserError
from core.files import fsync_folder, instead, temporary_name, write_json
from core.run.claim import CONFIG_NAME
from data.dataset.index import Dataset
from data.latent.mixture import Mixture
from data.latent.reading import Normaliser, compare
from models.autoencoder import store
from models.autoencoder.opening import files, identify_saved

LATENTS, AUTOENCODER = "latents.json", "autoencoder"
TEXT_FOLDER = "text_folder"  # in latents.json; it may move, so it is not compared
ADDED_LATER = {"normalise": "measured", "text": None, TEXT_FOLDER: ""}  # what older runs do not say


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
    text_folder: str | None = None,
) -> None:
    """Publish `autoencoder/` and then `latents.json` in the run folder, once; they stay as they are.

    UserError where the run was begun on another cache than `cache` now is (the differing field, both values).
    """
    record = describe(cache, objective, latents, text_folder)
    if (run / LATENTS).exists():
        before = ADDED_LATER | json.loads((run / LATENTS).read_text(encoding="utf-8"))
        before[TEXT_FOLDER] = record[TEXT_FOLDER]
        if _are_moved(before["cache"], record["cache"]):
            before["cache"] = record["cache"]
        if (differs := compare(before, record)) is not None:
            field, was, now = differs
            raise UserError(f"{run} was begun with {field}={was}; in {cache.place} it is {now}")
        return
    copy_autoencoder(autoencoder, run)
    write_json(run / LATENTS, record)


def describe(
    cache: Dataset, objective: ObjectiveConfig, latents: LatentsConfig, text_folder: str | None
) -> dict[str, Any]:
    """The content of `latents.json`.  text_folder: None for a network that takes no text.

    mean, std: per channel, over all caches of a mixture; the network sees (latent - mean) / std.  normalise:
    whence these are.  encoder, cache: fingerprints, {place: fingerprint} for the caches of a mixture.  text:
    what embedded the captions, None if the network takes none; text_folder: where that lay.
    classes: names by label.  shapes: [C, T, H, W] of each bucket, the one with most samples first.
    path, prediction, learned_sigma: how the network was trained, as in `core.diffusion`.
    """
    caches = cache.caches if isinstance(cache, Mixture) else (cache,)
    samples: Counter[tuple[int, ...]] = Counter()
    for part in caches:
        counts = np.bincount(part.index["bucket"], minlength=len(part.manifest.buckets))
        samples.update(dict(zip(latent_shapes(part), counts.tolist(), strict=False)))  # behind: in no bucket
    several = cache_fingerprints(cache)
    return {
        **choose_normaliser(cache, latents).as_dict(),
        "normalise": latents.normalise,
        "text": None if text_folder is None else text_encoder(cache),
        TEXT_FOLDER: text_folder or "",
        "cache": several if len(caches) > 1 else cache.manifest.fingerprint,
        "encoder": encoder_fingerprint(cache),
        "classes": list(cache.manifest.classes),
        "shapes": [list(shape) for shape, _ in samples.most_common()],
        "path": objective.path,
        "prediction": objective.prediction,
        "learned_sigma": objective.learned_sigma,
    }


def space_file(run: Path) -> Path:
    """The `latents.json` of a run or an export; UserError where this is neither."""
    path = run / LATENTS
    if not path.is_file():
        raise UserError("source", run, f"the folder of a training run (with {LATENTS}){instead(run)}")
    return path


def cache_fingerprints(cache: Dataset) -> dict[str, str]:
    """{place: fingerprint} of the cache, or of each cache of a mixture."""
    caches = cache.caches if isinstance(cache, Mixture) else (cache,)
    return {part.place: part.manifest.fingerprint for part in caches}


def latent_shapes(cache: Dataset) -> list[tuple[int, int, int, int]]:
    """(C, T, H, W) of each bucket."""
    return [(c, t, h, w) for _, c, t, h, w in cache.manifest.buckets]


def encoder_fingerprint(cache: Dataset) -> str:
    """Of the weights and configuration of the autoencoder that made the cache."""
    return str(cache.manifest.extra["made_from"]["encoder"])


def text_encoder(cache: Dataset) -> dict[str, Any] | None:
    """What embedded the captions of the cache, as `models.text.encoders` describes it; None where there are
    none.
    """
    found: dict[str, Any] | None = cache.manifest.extra["made_from"].get("text")
    return found


def find_autoencoder(cache: Dataset, configured: str) -> Path:
    """The folder of the autoencoder that made the cache: the configured one, or the one `encode` was given.

    UserError where there is none, or where it is another one (the differing field and both values).
    """
    if "encoder_config" not in cache.manifest.extra["made_from"]:
        expected = (
            "a cache that says what encoded it; `inspect CACHE action=reindex autoencoder=FOLDER` states it"
        )
        raise UserError("source", cache.place, expected)
    folder, made_by = configured or recorded(cache.folder, "autoencoder"), encoder_fingerprint(cache)[:12]
    try:
        place = store.locate(Path(folder))
    except UserError:
        expected = f"the folder of the autoencoder {made_by}, which made {cache.folder}"
        expected += instead(Path(folder)) if folder else ""
        raise UserError("autoencoder", folder or "''", expected) from None
    now, then = identify_saved(place), cache.manifest.extra["made_from"]
    names = ("encoder_config", "encoder")
    if (differs := compare(*({name: made[name] for name in names} for made in (then, now)))) is not None:
        field, was, found = differs
        expected = f"the one that made {cache.folder}, with {field}={was}; this one has {field}={found}"
        raise UserError("autoencoder", folder, expected)
    return place


def _are_moved(before: Any, now: Any) -> bool:
    """Whether the caches of a mixture are the same ones at other places; checkpoints compare their order."""
    are_several = isinstance(before, dict) and isinstance(now, dict)
    return are_several and sorted(before.values()) == sorted(now.values())


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


def recorded(cache: Path, field: str) -> str:
    """A field of the config with which `encode` made the cache; "" where that does not say."""
    config = cache / CONFIG_NAME
    return str(read_yaml(config).get(field, "")) if config.is_file() else ""
