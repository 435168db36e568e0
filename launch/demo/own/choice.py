"""Choose what a demo of a folder trains, from the folder, the machine's speed and the minutes to spend.

`choose` is a pure function. The rules, with a table of what comes of them, are in docs/demo.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np

from data.order.buckets import Bucket, BucketConfig, available_frames, is_image
from launch.demo.own.shapes import choose_shapes
from launch.demo.own.step_times import (
    Sizes,
    Speed,
    encoder_step,
    latents_of,
    network_of,
    shares_of,
    train_step,
)
from models.denoisers.network import train_flops

RESOLUTIONS = (32, 48, 64, 96, 128, 192, 256)
FRAMES = (17, 9, 5)
DENOISERS = ((128, 4, 2), (192, 6, 3), (256, 8, 4), (384, 12, 6))  # width, depth, heads
SIMPLE = 64  # pixels up to which the smallest denoiser will do

ENCODER_SHARE, TRAIN_SHARE, SAMPLE_SHARE = 0.40, 0.42, 0.08  # of the time; the rest encodes and scores
STARTS_S = 60.0  # of the processes of all stages
ENCODER_STEPS, TRAIN_STEPS = 700, 1000  # fewer give nothing to look at
BETTER_STEPS = 1500  # that a larger denoiser must still have
MOST_ENCODER_STEPS = 6000
MOST_PASSES = 400  # over the samples: more only learns them by heart
ENCODER_BYTES = 900.0  # that the autoencoder's training takes a pixel
EVALUATIONS = 20  # of the network for a sample, as in configs/demo/sample-images.yaml
CLIP_RATE = 12.0  # frames a second: 17 of them are 1.4 s
ENOUGH = 0.9  # share of the videos that must be long enough


@dataclass(frozen=True)
class Folder:
    """What is in a folder. media: (samples,) MEDIA_DTYPE.  spent_s: seconds that reading it has taken."""

    media: np.ndarray
    texts: int = 0
    classes: int = 0
    spent_s: float = 0.0


class Choice(TypedDict):
    """What is trained. shapes: [frames, height, width], those of images first.  fps: 0 keeps each video's.

    wanted: whether the steps are as many as something to look at needs.
    """

    resolution: int
    shapes: list[list[int]]
    fps: float
    encoder_steps: int
    width: int
    depth: int
    heads: int
    train_steps: int
    passes: float
    images: int
    clips: int
    precision: str
    wanted: bool


def shapes_of(choice: Choice) -> list[Bucket]:
    """Return the shapes that are trained on."""
    return [Bucket(*shape) for shape in choice["shapes"]]


def precision_of(device: str) -> str:
    """Return the precision to train in: on CPUs bf16 is slower than fp32 (docs/demo.md)."""
    return "bf16" if device == "cuda" else "fp32"


def choose(folder: Folder, speed: Speed, minutes: float) -> Choice:
    """Return the largest resolution, longest clips and largest denoiser that the time can train.

    Resolutions above what nine tenths of the samples have are not tried: enlarging shows nothing more.
    """
    seconds = max(30.0, 60 * minutes - folder.spent_s - STARTS_S)
    found: list[_Trial] = []
    for frames in _lengths(folder.media):
        fps = _rate(folder.media, frames)
        found = [_try(folder, speed, seconds, size, frames, fps) for size in _sizes(folder.media)]
        enough = [trial for trial in found if trial.wanted]
        if enough and (enough[-1].resolution >= SIMPLE or len(enough) == len(found)):
            return enough[-1].choice
    enough = [trial for trial in found if trial.wanted]
    return (enough[-1] if enough else found[0]).choice


@dataclass(frozen=True)
class _Trial:
    resolution: int
    choice: Choice

    @property
    def wanted(self) -> bool:
        return self.choice["wanted"]


def _try(folder: Folder, speed: Speed, seconds: float, resolution: int, frames: int, fps: float) -> _Trial:
    clips = BucketConfig(fps=fps)
    shapes = choose_shapes(folder.media, frames, resolution, clips)
    weights = shares_of(shapes)
    encoder = encoder_step(shapes, weights, speed)
    encoder_steps = min(MOST_ENCODER_STEPS, int(ENCODER_SHARE * seconds / encoder))
    counts = {model: train_step(model, shapes, weights, speed) for model in DENOISERS}
    least = DENOISERS[0 if resolution <= SIMPLE else 1]
    steps = {model: int(TRAIN_SHARE * seconds / step) for model, (step, _) in counts.items()}
    model = max((m for m in DENOISERS if m > least and steps[m] >= BETTER_STEPS), default=least)
    taken = counts[model][1]  # samples of a step
    used = max(1, len(folder.media))
    train_steps = min(steps[model], max(TRAIN_STEPS, int(MOST_PASSES * used / taken)))
    largest = max(shape.pixels for shape in shapes)
    fits = ENCODER_BYTES * largest <= speed.memory
    wanted = fits and encoder_steps >= ENCODER_STEPS and steps[least] >= TRAIN_STEPS
    images, clip_count = _counts(model, shapes, speed, SAMPLE_SHARE * seconds, guided=folder.classes > 1)
    return _Trial(
        resolution,
        Choice(
            resolution=resolution,
            shapes=[list(shape) for shape in shapes],
            fps=fps,
            encoder_steps=max(1, encoder_steps),
            width=model[0],
            depth=model[1],
            heads=model[2],
            train_steps=max(1, train_steps),
            passes=round(train_steps * taken / used, 1),
            images=images,
            clips=clip_count,
            precision=speed.precision,
            wanted=wanted,
        ),
    )


def _sizes(media: np.ndarray) -> Sequence[int]:
    """Return the resolutions to try, from the smallest on."""
    own = np.quantile(np.sqrt(media["width"].astype(float) * media["height"]), 1 - ENOUGH)
    return [size for size in RESOLUTIONS if size <= own] or RESOLUTIONS[:1]


def _lengths(media: np.ndarray) -> Sequence[int]:
    """Return the lengths of clips to try, the longest first; 1 where there are only images."""
    videos = media[~is_image(media)]
    if not len(videos):
        return (1,)
    filled = [
        length
        for length in FRAMES
        if (available_frames(videos, BucketConfig(fps=_rate(media, length))) >= length).mean() >= ENOUGH
    ]
    return filled or FRAMES[-1:]


def _rate(media: np.ndarray, frames: int) -> float:
    """Return the frame rate to read clips at: CLIP_RATE if videos are long and fast enough, so that a clip
    shows more; else the most frequent one where there are several; else 0, their own.
    """
    videos = media[~is_image(media)]
    if not len(videos):
        return 0.0
    rates = videos["rate_num"] / np.maximum(videos["rate_den"], 1)
    at_rate = available_frames(videos, BucketConfig(fps=CLIP_RATE))
    if np.median(rates) > 1.25 * CLIP_RATE and (at_rate >= frames).mean() >= ENOUGH:
        return CLIP_RATE
    values, counts = np.unique(np.round(rates, 3), return_counts=True)
    return float(values[counts.argmax()]) if len(values) > 1 else 0.0


def _counts(
    model: Sizes, shapes: Sequence[Bucket], speed: Speed, seconds: float, *, guided: bool
) -> tuple[int, int]:
    """Return how many images and clips there is time to generate: 16 to 200, and 4 to 12."""
    result = [0, 0]
    kinds = {shape.frames > 1 for shape in shapes}
    for place, clip in enumerate((False, True)):
        if clip not in kinds:
            continue
        shape = max(s for s in shapes if (s.frames > 1) == clip)
        evaluations = EVALUATIONS * (2 if guided else 1)
        one = evaluations * train_flops(network_of(model), latents_of(shape)) / 3 / speed.flops
        few, many = (4, 12) if clip else (16, 200)
        result[place] = int(np.clip(seconds / len(kinds) / one, few, many))
    return result[0], result[1]
