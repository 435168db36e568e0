"""How a raw dataset is encoded while training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from core.config.settings import setting
from data.media.formats import DEFAULT_LIMITS, MediaLimits
from data.order.buckets import BucketConfig


@dataclass(frozen=True, kw_only=True)
class EncodingConfig:
    """Preparation of samples before they are encoded, and the choice of the encoder's outputs."""

    buckets: BucketConfig = setting(BucketConfig(), "shapes that samples are brought to, and clips")
    store: Literal["moments", "mean"] = setting("moments", "moments: latents are drawn; mean: they are not")
    dtype: Literal["float16", "float32"] = setting(
        "float16", "number format that latents are rounded to, as a cache would store them"
    )
    flip: bool = setting(False, "mirror half of the samples left to right")
    threads: int = setting(2, "samples decoded at a time", low=1, role="work")
    limits: MediaLimits = setting(DEFAULT_LIMITS, "what is refused because it is too large")
    quarantine_budget: float = setting(
        0.01, "samples that may fail to decode: below 1 a fraction, from 1 on a number", low=0, role="work"
    )
    statistics_samples: int = setting(
        1024, "samples, evenly spread, whose latents give mean and standard deviation", low=1
    )
