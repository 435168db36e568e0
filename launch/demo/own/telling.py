"""Describe what was chosen for a folder, how its samples are cropped, and the limits of the budget."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from core.progress import counted
from data.order.buckets import Bucket, BucketConfig, assign, is_image
from data.order.usage import usage_lines
from launch.demo.own.choice import ENCODER_STEPS, TRAIN_STEPS, Choice, Folder, shapes_of
from launch.demo.own.kept import can_read_words
from launch.demo.own.shapes import treatment
from launch.demo.own.step_times import COMPRESSION, Speed


def tell(folder: Folder, choice: Choice, speed: Speed, minutes: float, *, text_encoder: str) -> list[str]:
    """Return the lines on what is trained, and on what is cropped, enlarged and left out."""
    media = folder.media
    images = int(is_image(media).sum())
    shapes = shapes_of(choice)
    width, height = (int(np.median(media[side])) for side in ("width", "height"))
    return [
        f"the folder: {counted(images, 'image')}, {counted(len(media) - images, 'video')}, "
        f"{counted(folder.classes, 'class').replace('classs', 'classes')}, median size {width}x{height}",
        f"chosen for {minutes:g} minutes on {speed.device}: about {choice['resolution']}^2 pixels, in "
        f"{counted(len(shapes), 'shape')} (frames x height x width): {', '.join(map(str, shapes))}",
        f"autoencoder: {counted(choice['encoder_steps'], 'step')}; denoiser of width {choice['width']} and "
        f"depth {choice['depth']}: {counted(choice['train_steps'], 'step')}, {choice['passes']:g} passes "
        "over the samples",
        *_treated(folder, choice, shapes),
        *_texts(folder, text_encoder),
    ]


def _treated(folder: Folder, choice: Choice, shapes: list[Bucket]) -> Iterator[str]:
    """Yield what is cropped, made smaller, enlarged and left out, and how much of the videos is used."""
    clips = BucketConfig(fps=choice["fps"])
    found = treatment(folder.media, shapes, clips)
    yield (
        f"cropped to the nearest shape: {found['lost_mean']:.1%} of the area on average, "
        f"{found['lost_most']:.1%} at most, evenly on both sides"
    )
    enlarged = counted(round(found["enlarged"]), "sample")
    yield f"scaled down by {found['shrunk']:.3g} (median); enlarged: {enlarged}"
    if found["unused"]:
        frames = min(shape.frames for shape in shapes if shape.frames > 1)
        yield f"left out: {counted(round(found['unused']), 'video')} of fewer than {frames} frames"
    if choice["fps"]:
        yield f"clips are read at {choice['fps']:g} frames a second"
    column = assign(folder.media, shapes, clips)
    yield from usage_lines(folder.media, column, shapes, clips)


def _texts(folder: Folder, text_encoder: str) -> list[str]:
    if not folder.texts:
        return []
    if text_encoder:
        return [f"captions: {folder.texts}, embedded by {text_encoder}"]
    if can_read_words():
        return [
            f"captions: {folder.texts}, by a fixed vector for each of their words, which knows neither "
            "synonyms nor the order of words; text_encoder=FOLDER takes a trained one (CLIP, T5, UMT5)"
        ]
    return [
        f"captions: {folder.texts} are NOT used, since transformers is not installed: "
        "pip install 'longtake[public]'"
    ]


def limits(folder: Folder, choice: Choice, minutes: float) -> list[str]:
    """Say plainly what samples of such a budget cannot be."""
    lines = [
        f"what {minutes:g} minutes cannot give: published generators learn from millions of pictures for "
        f"days on many GPUs; this one sees {counted(len(folder.media), 'sample')} about "
        f"{choice['passes']:g} times. Expect the colours, layout and textures of your pictures, not new "
        "sharp objects",
        "the autoencoder keeps one number in "
        f"{3 * COMPRESSION**2 // 4} of a picture's, so that fine detail is lost before the denoiser begins",
    ]
    if choice["passes"] > 50:
        lines.append(
            f"{choice['passes']:g} passes over the same samples: some pictures are learned by heart; the "
            "report gives the share of near-copies of training pictures"
        )
    if not choice["wanted"]:
        lines.append(
            f"too little time: fewer than {ENCODER_STEPS} steps of the autoencoder or {TRAIN_STEPS} of the "
            "denoiser, even at the smallest size; samples will be noise or blur. Give more minutes="
        )
    return lines
