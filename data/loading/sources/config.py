"""Settings of encoding a raw dataset while training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from core.config.settings import setting
from data.media.formats import DEFAULT_LIMITS, MediaLimits
from data.order.buckets import BucketConfig


@dataclass(frozen=True, kw_only=True)
class EncodingConfig:
    """Preparation of samples before they are encoded, and the choice of the encoder's outputs."""

    buckets: BucketConfig = setting(
        BucketConfig(), "shapes to which samples are scaled and cropped, and how clips are taken"
    )
    store: Literal["moments", "mean"] = setting(
        "moments", "moments: latents are drawn from the encoder's posterior; mean: its mean is used"
    )
    dtype: Literal["float16", "float32"] = setting(
        "float16", "number format to which latents are rounded, as a cache would store them"
    )
    flip: bool = setting(False, "mirror half of the samples horizontally")
    threads: int = setting(2, "samples decoded in parallel", low=1, role="work")
    limits: MediaLimits = setting(DEFAULT_LIMITS, "limits above which a file is refused as too large")
    quarantine_budget: float = setting(
        0.01,
        "number of samples that may fail to decode before the run ends: a fraction if below 1, else a count",
        low=0,
        role="work",
    )
    statistics_samples: int = setting(
        1024,
        "number of evenly spread samples from whose latents mean and standard deviation are measured",
        low=1,
    )
