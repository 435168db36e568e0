"""Extract what the classifier and the search for copies need: small pictures, and how much clips change."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor

from tools.evaluate import copies, measures
from tools.evaluate.classifier import SIDE, middle_frames, to_input
from tools.evaluate.shared.number_parts import PLACE, Numbers

INPUT, THUMBNAIL = 3 * SIDE**2, 3 * copies.SIDE**2  # numbers of a frame
EXAMPLES = 3  # frames of each real clip that the classifier learns from
INPUTS, THUMBNAILS, MIDDLE, LEARNT = "inputs", "thumbnails", "middle", "learnt"
FIRST, SECOND = "first", "second"  # mean absolute differences in time of a clip
WIDE = frozenset((FIRST, SECOND))  # that are kept in float64
Pixels = NDArray[np.uint8]


def widths_of(frames: int) -> Mapping[str, int]:
    """Return the numbers that are kept of a real sample of so many frames, by name."""
    if frames == 1:
        return {PLACE: 1, INPUTS: INPUT, THUMBNAILS: THUMBNAIL}
    middle = len(middle_frames(np.zeros((1, frames), np.uint8))[0])
    return {PLACE: 1, MIDDLE: middle * INPUT, LEARNT: EXAMPLES * INPUT, FIRST: 1, SECOND: 1}


def of_images(pixels: Pixels) -> Numbers:
    """Return those of images (n, H, W, 3), but their places."""
    return {INPUTS: to_input(pixels).flatten(1).numpy(), THUMBNAILS: copies.thumbnails(pixels)}


def of_clips(pixels: Pixels) -> Numbers:
    """Return those of clips (n, T, H, W, 3)."""
    times = np.linspace(0, pixels.shape[1] - 1, EXAMPLES + 2).round().astype(int)[1:-1]
    first, second = measures.changes(pixels)
    middle, learnt = (frames.flatten(1).numpy() for frames in (middle_of(pixels), _frames(pixels[:, times])))
    return {MIDDLE: middle, LEARNT: learnt, FIRST: first, SECOND: second}


def middle_of(pixels: Pixels) -> Tensor:
    """Return the middle frames of clips (n, T, H, W, 3) as the classifier sees them, (n, t, 3, 32, 32)."""
    return _frames(middle_frames(pixels))


def frames_in(numbers: NDArray[np.float32]) -> Tensor:
    """Return images (n, 3, 32, 32), or frames of clips (n, t, 3, 32, 32), from what is kept of them."""
    found = torch.from_numpy(numbers.reshape(len(numbers), numbers.shape[1] // INPUT, 3, SIDE, SIDE))
    return found[:, 0] if numbers.shape[1] == INPUT else found


def _frames(clips: Pixels) -> Tensor:
    found = to_input(rearrange(clips, "n t h w c -> (n t) h w c"))
    return rearrange(found, "(n t) c h w -> n t c h w", t=clips.shape[1])
