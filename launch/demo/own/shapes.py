"""Choose a few shapes close to all pictures of a folder, and report what each sample loses to cropping."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from data.order.buckets import (
    NO_BUCKET,
    Bucket,
    BucketConfig,
    assign,
    available_frames,
    is_image,
    make_buckets,
)
from data.order.fitting import area_lost, scale_to_cover

MULTIPLE = 8  # pixels that make a token's side: compression 4, patch 2
MOST_SHAPES = 5  # of images, and of clips: each is a group of its own, whose samples take turns
NEAR = 0.02  # share of the area that a sample may lose beyond its best shape
WIDEST = 4.0  # ratio of sides; what is wider is cropped to it


def choose_shapes(media: np.ndarray, frames: int, resolution: int, clips: BucketConfig) -> list[Bucket]:
    """Return at most MOST_SHAPES buckets of about resolution^2 pixels for images, and as many for clips.

    The first is the one that loses least over all samples, and each further one what then lessens the loss
    most, until no sample loses NEAR more than it must. media: (samples,) MEDIA_DTYPE.  frames: of a clip; 1
    makes none.  clips: rate and stride.
    """
    chosen: list[Bucket] = []
    for length in sorted({1, frames}):
        kind = media[is_image(media) if length == 1 else ~is_image(media)]
        kind = kind[available_frames(kind, clips) >= length]
        if len(kind):
            chosen += _fewest(kind, _candidates(kind, length, resolution, clips))
    return chosen


def _candidates(media: np.ndarray, frames: int, resolution: int, clips: BucketConfig) -> list[Bucket]:
    sides = media["width"] / np.maximum(media["height"], 1)
    widest = float(np.clip(np.maximum(sides, 1 / np.maximum(sides, 1e-9)).max(), 1.0, WIDEST))
    all_shapes = replace(
        clips,
        resolution=resolution,
        multiple=MULTIPLE,
        max_aspect=1.5 * widest,  # so that shapes on the far side of the widest picture are there too
        min_share=0.0,
        frames=(frames,),
    )
    return make_buckets(media, all_shapes)


def _fewest(media: np.ndarray, candidates: list[Bucket]) -> list[Bucket]:
    lost = np.stack([area_lost(media, bucket) for bucket in candidates])
    best, chosen = lost.min(0), [int(lost.sum(1).argmin())]
    while len(chosen) < min(MOST_SHAPES, len(candidates)):
        now = lost[chosen].min(0)
        if (now <= best + NEAR).all():
            break
        chosen.append(int(np.minimum(lost, now).sum(1).argmin()))
    return [candidates[number] for number in sorted(set(chosen))]


def treatment(media: np.ndarray, shapes: Sequence[Bucket], clips: BucketConfig) -> dict[str, float]:
    """Count what becomes of the samples.

    samples; unused: those that fit no shape; lost_mean, lost_most: share of the area that is cropped, on
    average and at most; enlarged: those with fewer pixels than their shape; shrunk: the median factor.
    """
    column = assign(media, shapes, clips)
    lost, scale = [np.zeros(0)], [np.zeros(0)]
    for number, bucket in enumerate(shapes):
        here = media[column == number]
        lost.append(area_lost(here, bucket))
        scale.append(scale_to_cover(here, bucket))
    areas, scales = np.concatenate(lost), np.concatenate(scale)
    there = len(areas) > 0
    return {
        "samples": len(media),
        "unused": int((column == NO_BUCKET).sum()),
        "lost_mean": float(areas.mean()) if there else 0.0,
        "lost_most": float(areas.max()) if there else 0.0,
        "enlarged": int((scales > 1).sum()),
        "shrunk": float(1 / np.median(scales)) if there else 1.0,
    }
