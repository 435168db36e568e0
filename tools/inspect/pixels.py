"""The pixels that training sees of one sample, written to a file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from einops import rearrange

from core.errors import UserError, below
from core.files import atomic_file
from data.dataset.index import Dataset
from data.media.formats import DEFAULT_LIMITS, MediaError
from data.media.pictures import write_png
from data.order.buckets import NO_BUCKET, BucketConfig, assign, make_buckets
from data.raw.decoding import read_pixels


def write_sample(dataset: Dataset, row: int, config: BucketConfig, path: Path) -> str:
    """Write the pixels of a raw sample as .npy or .png, and say what they are.

    They are those of `encode` with the same buckets: the clip in the middle, the crop in the centre.
    UserError if there is no such sample, it fits no bucket, or it cannot be decoded.
    """
    if dataset.manifest.kind != "raw":
        raise UserError("source", dataset.place, "a raw dataset: a cache holds latents, no pixels")
    if row >= len(dataset):
        raise UserError("sample", row, f"a row below {len(dataset)}")
    media = np.asarray(dataset.media)
    with below("buckets"):
        buckets = make_buckets(media, config)
    number = int(assign(media[row : row + 1], buckets, config)[0])
    if number == NO_BUCKET:
        raise UserError("sample", row, f"one that fits a bucket ({', '.join(map(str, buckets))})")
    try:
        pixels = read_pixels(dataset, row, buckets[number], config, DEFAULT_LIMITS)
    except MediaError as error:
        raise UserError("sample", row, f"one that can be decoded; {error}") from None
    if path.suffix == ".npy":
        with atomic_file(path) as file:
            np.save(file, pixels, allow_pickle=False)
    else:
        write_png(path, rearrange(pixels, "t h w c -> h (t w) c"))
    return f"sample {row}: {buckets[number]} pixels (frames, height, width) in {path}"
