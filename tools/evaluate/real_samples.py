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
from core.progress import say
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


@dataclass(frozen=True)
class Shape:
    """Pixels of a sample; an image has 1 frame."""

    frames: int
    height: int
    width: int

    @property
    def is_clip(self) -> bool:
        return self.frames > 1


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
