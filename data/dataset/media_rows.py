"""Rows of `media.npy`: built from what was measured, or upgraded from those of earlier versions."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from data.dataset.schema import MEDIA_DTYPE
from data.media.formats import Media

OLD_MEDIA_DTYPE = np.dtype([("width", "<u4"), ("height", "<u4"), ("frames", "<u4"), ("fps", "<f4")])
MOST_RATES = 8  # frame rates of clips that are told apart
_MOST = 2**32 - 1  # largest numerator or denominator of a rate


def media_row(media: Media) -> list[Any]:
    """Return the values of one row of MEDIA_DTYPE, in its order."""
    rate = media.rate
    if max(rate.numerator, rate.denominator) > _MOST:
        rate = rate.limit_denominator(1 << 16)
    return [
        *(media.width, media.height, media.frames, media.fps),
        *(rate.numerator, rate.denominator, media.duration.numerator, media.duration.denominator),
        media.fields,
    ]


def media_table(rows: Sequence[Media]) -> np.ndarray:
    """Build the table of media facts, (rows,) MEDIA_DTYPE."""
    return np.array([tuple(media_row(media)) for media in rows], MEDIA_DTYPE)


def upgraded(old: np.ndarray) -> np.ndarray:
    """Convert (samples,) OLD_MEDIA_DTYPE to MEDIA_DTYPE.

    Duration is the number of frames over the mean rate.
    """
    rows = np.zeros(len(old), MEDIA_DTYPE)
    for name in OLD_MEDIA_DTYPE.names or ():
        rows[name] = old[name]
    for fps in np.unique(old["fps"]).tolist():
        rate = Fraction(fps).limit_denominator(1001)
        here = old["fps"] == np.float32(fps)
        rows["rate_num"][here], rows["rate_den"][here] = rate.numerator, rate.denominator
        rows["duration_num"][here] = old["frames"][here].astype(np.uint64) * rate.denominator * (fps > 0)
        rows["duration_den"][here] = rate.numerator or 1
    return rows


def frame_rates(media: np.ndarray, are_clips: np.ndarray, fps: float, stride: int) -> list[list[float]]:
    """Return [frames a second, samples] of clips, the most frequent first; at most MOST_RATES.

    media: (samples,) MEDIA_DTYPE.  are_clips: (samples,) which of them clips are cut from.  fps: at which
    they are cut, 0 for each video's own.  stride: every so many frames are taken.
    """
    rows = media[are_clips & (media["rate_num"] > 0)]
    rates = np.full(len(rows), fps) if fps else rows["rate_num"] / np.maximum(rows["rate_den"], 1)
    found, counts = np.unique(np.round(rates / stride, 3), return_counts=True)
    order = np.argsort(-counts, kind="stable")[:MOST_RATES]
    return [[float(found[at]), int(counts[at])] for at in order]


def seconds(media: np.ndarray) -> np.ndarray:
    """Return the duration of each sample in seconds, (samples,) float64.

    It is 0 for images. media: (samples,) MEDIA_DTYPE.
    """
    return media["duration_num"] / np.maximum(media["duration_den"], 1)
