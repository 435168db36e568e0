"""Open the source of a run's latents that its config names, which must fit the network."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from core import environment
from core.errors import UserError, below, require_all
from data.dataset.index import Dataset
from data.loading.sources.cached import CachedLatents
from data.loading.sources.kinds import LatentFacts, LatentSource
from data.loading.sources.mixed import MixedLatents
from data.loading.sources.online import OnlineLatents
from data.loading.sources.pictured import PicturedLatents, Pictures
from models.autoencoder.store import locate
from models.denoisers.network import DenoiserConfig
from tools.runs.encoders import AutoencoderEncoder, CaptionEmbedder, Clock, PictureEncoder
from tools.runs.latent_space import find_autoencoder
from tools.runs.normalisers import LatentsConfig, encoders_own
from tools.train.config import DataConfig


def open_source(
    place: str, autoencoder: str, data: DataConfig, *, run: Path, text: bool, field: str = "source"
) -> LatentSource:
    """Open the cache, the caches as one, or the raw dataset that is encoded while training.

    field: what `place` is called where the person wrote it.  text: whether the network takes text.
    """
    if data.encode == "online":
        return _open_raw(place, autoencoder, data, run, field)
    cache = _opened(place, field, data)
    if cache.manifest.kind != "latent":
        expected = "a latent cache; this is a raw dataset: encode it first, or set data.encode=online"
        raise UserError(field, place, expected)
    if data.features == "online":
        return _with_pictures(cache, data)
    if not data.also:
        return CachedLatents(cache)
    caches = [cache, *(_opened(other, "data.also", data) for other in data.also)]
    return MixedLatents(caches, data.mix, text=text, pictures=data.features == "cached")


def _opened(place: str, field: str, data: DataConfig) -> Dataset:
    """Open a dataset as `verify` says; the first rank of a run sees for all that its shards are there."""
    return Dataset(place, field, check=data.verify != "off", look=environment.place().rank == 0)


def _with_pictures(cache: Dataset, data: DataConfig) -> PicturedLatents:
    """Open a cache whose pictures are read beside it."""
    field, own = "data.pictures.source", data.pictures
    place = own.source or CachedLatents(cache).encoded_with("source")
    if not place:
        raise UserError(field, "''", f"the raw dataset of {cache.place}, which does not say where that was")
    raw = _opened(place, field, data)
    return PicturedLatents(cache, Pictures(cache, raw, field), _picture_encoder(data), own.threads)


def _picture_encoder(data: DataConfig) -> PictureEncoder:
    folder, field = Path(data.pictures.encoder), "data.pictures.encoder"
    cpu, precision = torch.device("cpu"), data.online.precision
    return PictureEncoder(folder, data.pictures.patch, cpu, precision, field=field)


def _open_raw(place: str, autoencoder: str, data: DataConfig, run: Path, field: str) -> OnlineLatents:
    config = data.online
    if not autoencoder:
        raise UserError("autoencoder", "''", "a folder, since data.encode=online")
    raw = _opened(place, field, data)
    if raw.manifest.kind != "raw":
        raise UserError(field, place, "a raw dataset, since data.encode=online; this is a latent cache")
    cpu = torch.device("cpu")
    encoder = AutoencoderEncoder(Path(autoencoder), cpu, config.precision, Clock())
    with below("data.online.tiling"):
        encoder.autoencoder.set_tiling(config.tiling)
    captions, pictures = None, None
    if data.features == "online":
        pictures = _picture_encoder(data)
    made_with = {"autoencoder": autoencoder, "text_encoder": config.text_encoder}
    with below("data.online"):
        if config.text_encoder:
            folder = Path(config.text_encoder)
            captions = CaptionEmbedder(folder, config.text_tokens, cpu, config.precision, Clock())
        known: Any = {"run": run, "made_with": made_with, "pictures": pictures, "stills": data.stills}
        return OnlineLatents(raw, encoder, captions, config, **known)


def autoencoder_of(source: LatentSource, configured: str, data: DataConfig) -> Path:
    """Return the folder of the autoencoder that makes, or made, the latents.

    UserError if it cannot be told.
    """
    return locate(Path(configured)) if data.encode == "online" else find_autoencoder(source, configured)


def require_features(source: LatentSource, data: DataConfig) -> None:
    """Raise UserError where a run takes features that its source does not have."""
    if data.features == "cached" and not source.facts.feature_shapes:
        expected = f"none, since {source.facts.place} holds no features (picture_encoder= of encode)"
        raise UserError("data.features", data.features, expected)


def require_stills(source: LatentSource, data: DataConfig, field: str = "data.stills") -> None:
    """Raise UserError where a run takes stills of last pictures that its source does not have.

    field: of the config, which the source is named by where it is not the one of `data`.
    """
    if data.stills and not source.facts.has_stills:
        place = source.facts.place
        expected = f"false, since {place} holds no stills of last pictures (stills= of encode)"
        if field != "data.stills":
            raise UserError(field, place, "a cache of `encode stills=true`, since data.stills=true")
        raise UserError(field, "true", expected)


def require_fit(source: LatentSource, model: DenoiserConfig, latents: LatentsConfig) -> None:
    """Raise UserError naming every field in which latents, classes or text do not fit the network."""
    require_suited(source, model)
    if latents.normalise == "encoder":
        encoders_own(source.facts)


def require_suited(source: LatentSource, model: DenoiserConfig) -> None:
    """Raise UserError naming every field of the network that shapes, classes or text of latents rule out."""
    facts = source.facts
    require_all(
        _unlike_channels(facts, model),
        _unlike_classes(facts, model),
        _unlike_text(facts, model.text_width, source.text_setting),
    )
    for _, frames, height, width in facts.latent_shapes:
        with below("model"):
            model.tokens((frames, height, width))


def _unlike_channels(facts: LatentFacts, model: DenoiserConfig) -> tuple[str, int, str] | None:
    others = sorted({shape[0] for shape in facts.latent_shapes} - {model.input_channels})
    if not others:
        return None
    return "model.input_channels", model.input_channels, f"{others[0]}, those of {facts.place}"


def _unlike_classes(facts: LatentFacts, model: DenoiserConfig) -> tuple[str, int, str] | None:
    classes = len(facts.classes)
    if classes <= model.num_classes:
        return None
    return "model.num_classes", model.num_classes, f"at least {classes}, those of {facts.place}"


def require_known_labels(model: DenoiserConfig, *sources: LatentSource) -> None:
    """UserError where samples have a label that the network has no row for.

    It reads a column of the whole index where the classes have no names; where they have, `require_fit` has
    compared their number, and loaders compare each label with it.
    """
    for source in {id(source): source for source in sources if not source.facts.classes}.values():
        if (largest := source.conditions().largest_label) >= model.num_classes:
            expected = f"at least {largest + 1}, since {source.facts.place} has the label {largest}"
            raise UserError("model.num_classes", model.num_classes, expected)


def _unlike_text(facts: LatentFacts, width: int, setting: str) -> tuple[str, int, str] | None:
    """Say why there is no text of this width. setting: what has captions embedded."""
    found, field = facts.text_encoder, "model.text_width"
    if not width:
        return None
    if found is None:
        return field, width, f"0 for {facts.place}, since it holds no text ({setting})"
    if width != found["width"]:
        return field, width, f"0 for {facts.place}, or {found['width']}, the width of its text"
    if not facts.longest_text:
        return field, width, f"0 for {facts.place}, since none of its samples has a caption"
    return None


def unused_text(source: LatentSource, model: DenoiserConfig) -> list[str]:
    """Return a warning if there are captions that the network is not conditioned on."""
    found = source.facts.text_encoder
    if found is None or not source.facts.longest_text or model.text_width:
        return []
    width = found["width"]
    return [
        f"warning: the captions of {source.facts.place} are not used, since model.text_width=0; "
        f"model.text_width={width} trains on them"
    ]


def unused_captions(source: LatentSource, model: DenoiserConfig, data: DataConfig) -> list[str]:
    """Return warnings about captions that are never drawn; UserError for names that no caption has."""
    if not model.text_width:
        return []
    with below("data"):
        return source.check_captions(data)


def open_held_out(
    place: str,
    trained: LatentSource,
    data: DataConfig,
    model: DenoiserConfig,
    latents: LatentsConfig,
    *,
    run: Path,
) -> LatentSource:
    """Open samples to validate on that are not trained on.

    UserError unless the encoder of `trained` made them.
    """
    field = "validation_source"
    if data.encode == "online":
        raise UserError(field, place, "'' with data.encode=online")
    alone = replace(data, also=(), mix=(), features="none")
    held_out = open_source(place, "", alone, run=run, text=model.text_width > 0, field=field)
    require_fit(held_out, model, latents)
    require_stills(held_out, data, field)
    if held_out.facts.encoder != trained.facts.encoder:
        raise UserError(field, place, "a cache made by the encoder of `source`")
    return held_out
