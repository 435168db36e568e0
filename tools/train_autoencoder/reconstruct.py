"""Reconstruct samples that an autoencoder has not learned from: pairs, their PSNR, a picture of both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from core.progress import say
from data.dataset.index import Dataset
from data.loading.pixels import PixelConfig
from data.media.formats import MediaError
from data.media.images import from_tensor, to_tensor
from data.order.buckets import Bucket, assign, make_buckets
from data.raw.decoding import in_part, read_pixels
from models.autoencoder.interface import TrainedHere
from models.autoencoder.psnr import psnr

Pixels = NDArray[np.uint8]
COLUMNS = 16


@dataclass(frozen=True)
class Pairs:
    """Samples of one shape beside their reconstructions, both uint8 (n, T, H, W, 3)."""

    bucket: Bucket
    originals: Pixels
    copies: Pixels


def reconstruct(autoencoder: TrainedHere, dataset: Dataset, config: PixelConfig, most: int) -> list[Pairs]:
    """Encode and decode up to `most` held-out samples of every bucket, evenly spread over the dataset.

    Which samples are held out is a function of their ids alone, so that it is the same in every run; what
    cannot be decoded is passed over. Posterior means are decoded, clips are taken from the middle.
    """
    media = np.asarray(dataset.media)
    buckets = make_buckets(media, config.buckets)
    number = assign(media, buckets, config.buckets)
    held_out = in_part(np.asarray(dataset.index["id"]), "held_out", config.held_out)
    found = []
    for i, bucket in enumerate(buckets):
        rows = np.flatnonzero(held_out & (number == i))
        rows = rows[np.linspace(0, len(rows) - 1, min(most, len(rows))).round().astype(int)]
        originals = _read(dataset, rows.tolist(), bucket, config)
        if originals:
            found.append(Pairs(bucket, np.stack(originals), _copies(autoencoder, originals)))
    return found


def scores(pairs: Sequence[Pairs]) -> dict[str, Any]:
    """Return the PSNR in dB of uint8 pictures, the mean over images (clips without any) and over clips."""
    kinds = {
        "image": [p for p in pairs if p.bucket.frames == 1],
        "clip": [p for p in pairs if p.bucket.frames > 1],
    }
    result: dict[str, Any] = {"psnr_db": None}
    for kind, found in kinds.items():
        count = sum(len(p.originals) for p in found)
        if count:
            total = sum(len(p.originals) * psnr(p.originals, p.copies) for p in found)
            result |= {f"{kind}_psnr_db": total / count, f"{kind}s": count}
    result["psnr_db"] = result.get("image_psnr_db", result.get("clip_psnr_db"))
    return {name: value for name, value in result.items() if value is not None}


def show(pairs: Sequence[Pairs]) -> Pixels:
    """Draw originals above reconstructions: two rows of images, and two of frames for each of three clips."""
    from data.media.pictures import enlarge, enlargement, page

    side = max(pairs[0].bucket.height, pairs[0].bucket.width)
    shown = [
        p
        for p in pairs
        if (p.bucket.height, p.bucket.width) == (pairs[0].bucket.height, pairs[0].bucket.width)
    ]
    rows: list[Pixels] = []
    for pair in shown:
        if pair.bucket.frames == 1:
            rows += [pair.originals[:COLUMNS, 0], pair.copies[:COLUMNS, 0]]
            continue
        times = np.linspace(0, pair.bucket.frames - 1, min(COLUMNS, pair.bucket.frames)).round().astype(int)
        for clip in range(min(3, len(pair.originals))):
            rows += [pair.originals[clip, times], pair.copies[clip, times]]
    scale = enlargement(side, 64)
    cells = [[enlarge(picture, scale) for picture in row] for row in rows]
    return page(cells, ["original", "decoded"] * (len(rows) // 2))


def _read(dataset: Dataset, rows: list[int], bucket: Bucket, config: PixelConfig) -> list[Pixels]:
    found = []
    for row in rows:
        try:
            found.append(read_pixels(dataset, row, bucket, config.buckets, config.limits))
        except MediaError as error:
            say(f"sample {row} is passed over: {error}")
    return found


@torch.no_grad()
def _copies(autoencoder: TrainedHere, originals: list[Pixels], batch: int = 16) -> Pixels:
    device = next(autoencoder.parameters()).device
    copies = []
    for start in range(0, len(originals), batch):
        pixels = to_tensor(np.stack(originals[start : start + batch])).to(device)
        copies.append(from_tensor(autoencoder(pixels)[0].cpu()))
    return np.concatenate(copies)
