"""A sample of a raw dataset, brought to its bucket, and the part of the dataset it belongs to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from core.draws import scrambled
from core.errors import StorageError, WorkError
from data.media.formats import MediaError, MediaLimits, media_member
from data.media.images import decode_media
from data.order.buckets import (
    Bucket,
    BucketConfig,
    clip_start,
)

if TYPE_CHECKING:
    from data.dataset.index import Dataset


def read_pixels(
    dataset: Dataset,
    row: int,
    bucket: Bucket,
    clips: BucketConfig,
    limits: MediaLimits,
    *,
    where: float = 0.5,
    flip: bool = False,
) -> np.ndarray:
    """A sample brought to its bucket: uint8 (T, H, W, 3). MediaError if it cannot be read or decoded.

    where: in [0, 1], which of a video's possible clips; 0.5 is the one in the middle. Pictures are cropped
    in the centre.
    """
    data = sample_media(dataset, row)
    start = clip_start(dataset.media[row : row + 1], bucket.frames, clips, where)
    frames, size = (start, bucket.frames, clips.stride), (bucket.height, bucket.width)
    pixels = decode_media(data, limits, frames, clips.fps or None, size)
    return np.ascontiguousarray(pixels[:, :, ::-1]) if flip else pixels


def sample_media(dataset: Dataset, row: int) -> bytes:
    """The bytes of a sample's image or video; MediaError if they cannot be read, or it has not one."""
    try:
        return media_member(dataset.read(row))
    except StorageError:
        raise
    except WorkError as error:  # damage to the tar hides this sample; the others lie where the index says
        raise MediaError(str(error).removeprefix(f"{dataset.folder}/")) from None


def in_part(ids: np.ndarray, part: str, held_out: float) -> np.ndarray:
    """(samples,) bool: whether each sample belongs to `part`; a pure function of its id.

    The hash is the finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014).
    """
    if part == "all":
        return np.ones(len(ids), bool)
    z = (ids.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    is_held_out = scrambled(z) / 2.0**64 < held_out
    return is_held_out if part == "held_out" else ~is_held_out
