"""Report how pictures and films are scaled and cropped to the shapes of their buckets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from core.progress import counted
from data.order.buckets import Bucket

LEAST_LOST = 0.005  # share of the area below which nothing is said


def scale_to_cover(media: np.ndarray, bucket: Bucket) -> np.ndarray:
    """Return the factor by which each sample is scaled to cover the bucket: (samples,)."""
    height, width = np.maximum(media["height"], 1.0), np.maximum(media["width"], 1.0)
    scales: np.ndarray = np.maximum(bucket.height / height, bucket.width / width)
    return scales


def area_lost(media: np.ndarray, bucket: Bucket) -> np.ndarray:
    """Return the share of each picture's area that is cropped when it covers the bucket: (samples,)."""
    height, width = np.maximum(media["height"], 1.0), np.maximum(media["width"], 1.0)
    scale = scale_to_cover(media, bucket)
    lost: np.ndarray = np.maximum(0.0, 1 - bucket.height * bucket.width / (height * width * scale**2))
    return lost


def fitting_lines(media: np.ndarray, column: np.ndarray, buckets: Sequence[Bucket]) -> Iterator[str]:
    """Yield lines on how much is cropped and how many samples are enlarged, if any are.

    media: (samples,) MEDIA_DTYPE.  column: (samples,) the bucket of each; other numbers are in none.
    """
    lost, scales = np.zeros(len(media)), np.zeros(len(media))
    for number, bucket in enumerate(buckets):
        here = column == number
        lost[here], scales[here] = area_lost(media[here], bucket), scale_to_cover(media[here], bucket)
    used = scales > 0
    if used.any() and lost.max() >= LEAST_LOST:
        yield (
            f"cropped to the shape of its bucket: {lost[used].mean():.1%} of a sample's area on average, "
            f"{lost.max():.1%} at most (sample {lost.argmax()})"
        )
    if enlarged := int((scales > 1).sum()):
        yield (
            f"enlarged to cover its bucket: {counted(enlarged, 'sample')}, {scales.max():.3g} times at most "
            f"(sample {scales.argmax()})"
        )
