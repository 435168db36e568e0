"""Latent caches of procedurally varied digits, as many as wanted and no two alike.

`python -m tests.varied_digits FOLDER SAMPLES` writes caches `train` and `held_out`, and `autoencoder`. A
sample is a handwritten digit of scikit-learn's, turned, sheared, scaled, moved and dimmed at random, drawn on
16 x 16 pixels, and folded into a latent of 4 x 1 x 8 x 8: each channel has every second row and column.
Held-out samples come from digits of which no training sample is made. The autoencoder is an untrained one: it
only stands for the encoder's fingerprint, and nothing is decoded.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch
from einops import rearrange

from core.files import sha256_file, write_text
from data.dataset.manifest import DatasetManifest
from data.dataset.schema import write_index
from data.dataset.shared.shard_table import ShardRecord
from data.latent.normalising import LatentSums
from data.latent.pack_rows import index_rows
from data.latent.packs import LATENT_DTYPE, Pack, write_part
from models.autoencoder import store
from models.autoencoder.interface import settings_of
from models.autoencoder.kl import Autoencoder, KLConfig
from tools.digits import is_heldout, load_digits

CANVAS, SOURCE = 16, 8  # pixels a side
SHAPE = (1, 4, 1, 8, 8)  # moments, channels, frames, rows, columns
OF_SHARD, OF_PACK = 8192, 256
AUTOENCODER = KLConfig(
    latent_channels=4,
    spatial_compression=2,
    temporal_compression=1,
    patch=2,
    width=8,
    channel_multipliers=(1,),
)


def main(folder: Path, samples: int, held_out: int = 4096, seed: int = 0) -> None:
    """Write both caches and the autoencoder that stands for their encoder."""
    torch.manual_seed(0)
    store.save(Autoencoder(AUTOENCODER), folder / "autoencoder")
    pictures, labels = load_digits(1797)
    unseen = is_heldout(labels)
    write_cache(folder / "train", folder / "autoencoder", pictures[~unseen], labels[~unseen], samples, seed)
    other = folder / "held_out", folder / "autoencoder", pictures[unseen], labels[unseen]
    write_cache(*other, held_out, seed + 1)


def write_cache(
    folder: Path, autoencoder: Path, pictures: np.ndarray, labels: np.ndarray, samples: int, seed: int
) -> None:
    """Write a cache of so many samples of these digits, (n, 8, 8) in [0, 1]."""
    folder.mkdir(parents=True, exist_ok=True)
    rows, records, sums = [], [], []
    for number, first in enumerate(range(0, samples, OF_SHARD)):
        ids = np.arange(first, min(samples, first + OF_SHARD))
        random = np.random.default_rng((seed, number))
        chosen = random.integers(len(pictures), size=len(ids))
        drawn = varied(pictures[chosen], random)
        latents = rearrange(2 * drawn - 1, "n (h y) (w x) -> n 1 (y x) 1 h w", y=2, x=2).astype(LATENT_DTYPE)
        packs = [
            Pack(latents[i : i + OF_PACK], ids[i : i + OF_PACK], labels[chosen[i : i + OF_PACK]])
            for i in range(0, len(ids), OF_PACK)
        ]
        sums.append(LatentSums.of(latents))
        path = folder / f"{number:06d}.tar"
        places = write_part(path, number, packs)
        rows.append(index_rows(path, places, shard=number, first=first, buckets=[SHAPE]))
        size, digest = path.stat().st_size, sha256_file(path)
        records.append(ShardRecord(name=path.name, samples=len(ids), bytes=size, sha256=digest))
    config = json.loads(json.dumps(settings_of(AUTOENCODER)))
    made_from = {"encoder": store.fingerprint(autoencoder), "encoder_config": config}
    DatasetManifest(
        kind="latent",
        fingerprint=f"varied-digits-{samples}-{seed}",
        shards=tuple(records),
        buckets=(SHAPE,),
        files=write_index(folder, np.concatenate(rows)),
        extra={"made_from": made_from, "statistics": sum(sums[1:], sums[0]).statistics()},
        classes=tuple(map(str, range(10))),
    ).write(folder)
    write_text(
        folder / "config.yaml", f"# longtake: the resolved config of encode\nautoencoder: {autoencoder}\n"
    )


def varied(pictures: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Draw each digit (n, 8, 8) varied on a canvas (n, 16, 16); values in [0, 1]."""
    n = len(pictures)
    angle, shear = random.uniform(-0.35, 0.35, n), random.uniform(-0.25, 0.25, n)
    size = random.uniform(10, 15, (n, 2))
    centre = CANVAS / 2 + random.uniform(-1, 1, (n, 2)) * (CANVAS - size) / 2
    brightness = random.uniform(0.6, 1, n)
    y, x = np.meshgrid(np.arange(CANVAS) + 0.5, np.arange(CANVAS) + 0.5, indexing="ij")
    dy, dx = (axis[None] - centre[:, i, None, None] for i, axis in enumerate((y, x)))
    cos, sin = np.cos(angle)[:, None, None], np.sin(angle)[:, None, None]
    dy, dx = cos * dy - sin * dx, sin * dy + cos * dx
    dx = dx + shear[:, None, None] * dy
    places = [d * SOURCE / size[:, i, None, None] + SOURCE / 2 - 0.5 for i, d in enumerate((dy, dx))]
    return brightness[:, None, None] * _bilinear(pictures, *places)


def _bilinear(pictures: np.ndarray, row: np.ndarray, column: np.ndarray) -> np.ndarray:
    """Look up (n, 8, 8) at fractional places (n, H, W); black outside."""
    padded = np.pad(pictures, ((0, 0), (1, 2), (1, 2)))
    row, column = (np.clip(place + 1, 0, SOURCE + 1) for place in (row, column))
    top, left = np.floor(row).astype(int), np.floor(column).astype(int)
    down, right = row - top, column - left
    each = np.arange(len(pictures))[:, None, None]
    upper = padded[each, top, left] * (1 - right) + padded[each, top, left + 1] * right
    lower = padded[each, top + 1, left] * (1 - right) + padded[each, top + 1, left + 1] * right
    return upper * (1 - down) + lower * down


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
