"""A cache of random latents as a recipe takes them, made without media."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from core.files import sha256_file, write_text
from data.dataset.manifest import DatasetManifest
from data.dataset.schema import write_index
from data.dataset.shared.shard_table import ShardRecord
from data.latent.assembly import text_facts
from data.latent.normalising import LatentSums
from data.latent.pack_rows import index_rows, text_rows
from data.latent.packs import LATENT_DTYPE, Pack, Text, write_part
from models.autoencoder import store
from models.autoencoder.interface import settings_of
from models.autoencoder.kl import Autoencoder
from tests.integration.tiny_run import AUTOENCODER

SAMPLES = 16
Latent = tuple[int, int, int, int]
"""Channels, frames, height, width."""


def make_recipe_cache(
    folder: Path, shapes: Sequence[Latent], *, classes: int = 0, text: tuple[int, int] = (0, 0)
) -> Path:
    """Make a cache of 16 samples, evenly of these shapes, with the facts that `encode` records.

    text: tokens and width of every caption; no tokens are no text.
    """
    (folder / "cache").mkdir(parents=True)
    torch.manual_seed(0)
    settings = replace(AUTOENCODER, latent_channels=shapes[0][0])
    encoder = store.save(Autoencoder(settings), folder / "autoencoder")
    packs, path = packs_of(shapes, classes, text), folder / "cache" / "000000.tar"
    places = write_part(path, 0, packs)
    buckets = tuple((2, *shape) for shape in shapes)
    index = index_rows(path, places, shard=0, first=0, buckets=list(buckets))
    texts = text_rows(places, index) if text[0] else None
    first, *rest = [LatentSums.of(pack.latents) for pack in packs]
    made_from = {"encoder": encoder, "encoder_config": json.loads(json.dumps(settings_of(settings)))}
    if text[0]:
        made_from["text"] = {"encoder": "t", "width": text[1], "tokens": text[0]}
    shard = ShardRecord(name=path.name, samples=SAMPLES, bytes=path.stat().st_size, sha256=sha256_file(path))
    DatasetManifest(
        kind="latent",
        fingerprint="f",
        shards=(shard,),
        buckets=buckets,
        files=write_index(folder / "cache", index, texts=texts),
        classes=tuple(map(str, range(classes))),
        extra={"made_from": made_from, "statistics": sum(rest, first).statistics(), **text_facts(texts)},
    ).write(folder / "cache")
    recorded = f"# longtake: the resolved config of encode\nautoencoder: {folder / 'autoencoder'}\n"
    write_text(folder / "cache" / "config.yaml", recorded)
    return folder / "cache"


def packs_of(shapes: Sequence[Latent], classes: int, text: tuple[int, int]) -> list[Pack]:
    """Return one pack of each shape; all samples of a pack share its caption."""
    draws, packs = np.random.default_rng(0), []
    for number, ids in enumerate(np.array_split(np.arange(SAMPLES), len(shapes))):
        latents = np.empty((len(ids), 2, *shapes[number]), LATENT_DTYPE)
        for sample in latents:  # of long clips, one takes 65 MB as it is drawn
            sample[:] = draws.standard_normal(sample.shape, np.float32)
        labels = ids % classes if classes else np.full(len(ids), -1)
        found = None
        if text[0]:
            tokens = draws.standard_normal(text, np.float32).astype(LATENT_DTYPE)
            found = Text(tokens, np.tile(np.array([number * text[0], text[0]], np.uint32), (len(ids), 1)))
        packs.append(Pack(latents, ids, labels, text=found))
    return packs
