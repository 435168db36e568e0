"""Real images and clips of a raw dataset as arrays, in the shapes that generated ones are compared in."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from core.errors import WorkError
from core.permutations import permutation
from core.progress import Progress, say
from data.dataset.schema import IMAGE_BUCKET, VIDEO_BUCKET
from data.media.formats import MediaError
from data.media.images import decode_media
from data.media.scaling import RESIZE
from data.order.buckets import is_image
from data.raw.decoding import sample_media

if TYPE_CHECKING:
    from data.dataset.index import Dataset

Pixels = NDArray[np.uint8]
Labels = NDArray[np.int64]
HELDOUT_SHARE = 0.2  # part of a dataset that has no held-out companion


@dataclass(frozen=True)
class Shape:
    """Pixels of a sample; an image has 1 frame."""

    frames: int
    height: int
    width: int

    @property
    def is_clip(self) -> bool:
        return self.frames > 1


@dataclass(frozen=True)
class RealSamples:
    """images: (N, H, W, 3), image_labels: (N,); clips: (M, T, H, W, 3), clip_labels: (M,); -1 is none."""

    images: Pixels
    image_labels: Labels
    clips: Pixels
    clip_labels: Labels
    classes: tuple[str, ...]

    def split(self, seed: int) -> tuple[RealSamples, RealSamples]:
        """Set a random fifth of the images and of the clips aside; return (the rest, the fifth)."""
        image_rows = permutation(seed, "held-out images", (), len(self.images))
        clip_rows = permutation(seed, "held-out clips", (), len(self.clips))
        heldout = self._rows(*(rows[: round(HELDOUT_SHARE * len(rows))] for rows in (image_rows, clip_rows)))
        rest = self._rows(*(rows[round(HELDOUT_SHARE * len(rows)) :] for rows in (image_rows, clip_rows)))
        return rest, heldout

    def _rows(self, images: Labels, clips: Labels) -> RealSamples:
        return RealSamples(
            self.images[images],
            self.image_labels[images],
            self.clips[clips],
            self.clip_labels[clips],
            self.classes,
        )


def read(
    dataset: Dataset,
    image: Shape | None,
    clip: Shape | None,
    most: int,
    *,
    seed: int,
    fps: float,
    stride: int,
) -> RealSamples:
    """Decode at most `most` images and `most` clips, resized and centre-cropped to the given shapes.

    A kind whose shape is None is not read. Clips are the first frames of each video; what cannot be decoded,
    or is too short, is left out and counted on standard error. WorkError if nothing is left.
    """
    rate: dict[str, Any] = {"fps": fps, "stride": stride}
    images = list(_read_all(dataset, image, most, seed, **rate)) if image else []
    clips = list(_read_all(dataset, clip, most, seed, **rate)) if clip else []
    if not images and not clips:
        raise WorkError(f"{dataset.folder}: no readable image or clip to compare with")
    return RealSamples(
        *_stacked(
            [(pixels[0], label) for pixels, label in images],
            (image.height, image.width, 3) if image else (0, 0, 3),
        ),
        *_stacked(clips, (clip.frames, clip.height, clip.width, 3) if clip else (0, 0, 0, 3)),
        classes=dataset.manifest.classes,
    )


def real_pixels(
    dataset: Dataset, shape: Shape, most: int, *, seed: int, fps: float, stride: int
) -> Iterator[Pixels]:
    """Yield at most `most` samples, (H, W, 3) or (T, H, W, 3), resized and centre-cropped, one at a time.

    WorkError if there is none.
    """
    found = 0
    for pixels, _ in _read_all(dataset, shape, most, seed, fps=fps, stride=stride):
        found += 1
        yield pixels if shape.is_clip else pixels[0]
    if not found:
        raise nothing_readable(dataset, shape)


def batched(samples: Iterable[Pixels], size: int) -> Iterator[Pixels]:
    """Stack single samples into batches of `size`, the last of what is left."""
    rest = iter(samples)
    while batch := list(itertools.islice(rest, size)):
        yield np.stack(batch)


def nothing_readable(dataset: Dataset, shape: Shape) -> WorkError:
    """Return what is raised where a dataset has nothing to compare with."""
    return WorkError(f"{dataset.folder}: no readable {'clip' if shape.is_clip else 'image'} to compare with")


def rule_of(dataset: Dataset) -> dict[str, Any]:
    """Return what a ruler says of how real samples become those that are compared with."""
    return {"real_resize": dict(RESIZE), "real_colour": dataset.colour, "rounding": "to bytes"}


def chosen_rows(dataset: Dataset, shape: Shape, most: int, seed: int) -> Labels:
    """Return rows of at most `most` images, or clips, at random, in their order."""
    bucket = VIDEO_BUCKET if shape.is_clip else IMAGE_BUCKET
    rows = np.flatnonzero(is_image(np.asarray(dataset.media)) == (not shape.is_clip))
    return rows[np.sort(permutation(seed, "real samples", (bucket,), len(rows))[:most])]


def read_rows(
    dataset: Dataset, rows: Labels, shape: Shape, *, fps: float, stride: int
) -> Iterator[tuple[Pixels, int] | None]:
    """Yield pixels (T, H, W, 3) and label of each row, None for one that is damaged or too short.

    fps, stride: of clips; an image has neither.
    """
    if not shape.is_clip:
        fps, stride = 0.0, 1
    left_out = 0
    for row in rows:
        try:
            pixels = decode_media(
                sample_media(dataset, int(row), by_time=bool(fps)),
                frames=(0, shape.frames, stride),
                fps=fps or None,
                size=(shape.height, shape.width),
                colour=dataset.colour,
            )
        except MediaError:
            left_out += 1
            yield None
        else:
            yield pixels, int(dataset.index[row]["label"])
    if left_out:
        say(f"{dataset.folder}: {left_out} of {len(rows)} left out (damaged, or under {shape.frames} frames)")


def _read_all(
    dataset: Dataset, shape: Shape, most: int, seed: int, *, fps: float, stride: int
) -> Iterator[tuple[Pixels, int]]:
    rows = chosen_rows(dataset, shape, most, seed)
    with Progress(len(rows), "read real clips" if shape.is_clip else "read real images") as progress:
        for found in read_rows(dataset, rows, shape, fps=fps, stride=stride):
            if found is not None:
                yield found
            progress.advance()


def _stacked(samples: list[tuple[Pixels, int]], shape: tuple[int, ...]) -> tuple[Pixels, Labels]:
    pixels = np.stack([pixels for pixels, _ in samples]) if samples else np.zeros((0, *shape), np.uint8)
    return pixels, np.array([label for _, label in samples], np.int64)
