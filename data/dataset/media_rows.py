"""Rows of `media.npy`: made of what was measured, and of those that earlier versions wrote."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from data.dataset.schema import MEDIA_DTYPE
from data.media.formats import Media

OLD_MEDIA_DTYPE = np.dtype([("width", "<u4"), ("height", "<u4"), ("frames", "<u4"), ("fps", "<f4")])
_MOST = 2**32 - 1  # of the parts of a rate


def media_row(media: Media) -> list[Any]:
    """The values of MEDIA_DTYPE, in its order."""
    rate = media.rate
    if max(rate.numerator, rate.denominator) > _MOST:
        rate = rate.limit_denominator(1 << 16)
    return [
        *(media.width, media.height, media.frames, media.fps),
        *(rate.numerator, rate.denominator, media.duration.numerator, media.duration.denominator),
        media.fields,
    ]


def media_table(rows: Sequence[Media]) -> np.ndarray:
    """(rows,) MEDIA_DTYPE."""
    return np.array([tuple(media_row(media)) for media in rows], MEDIA_DTYPE)


def upgraded(old: np.ndarray) -> np.ndarray:
    """(samples,) MEDIA_DTYPE of OLD_MEDIA_DTYPE; duration is the number of frames over the mean rate."""
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


def seconds(media: np.ndarray) -> np.ndarray:
    """(samples,) float64: how long each lasts; 0 for images.  media: (samples,) MEDIA_DTYPE."""
    return media["duration_num"] / np.maximum(media["duration_den"], 1)
