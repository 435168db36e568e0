"""Pictures and clips that a job is given, as pixels of the size of its samples."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from core.errors import UserError
from core.files import read_bytes
from core.reading.instead import instead
from data.media.formats import IMAGE_FORMATS, MediaError, suffix_of
from data.media.images import decode_image, decode_video

LARGEST_FILE = 1 << 30  # bytes
WHITE = 128  # from here on a mask says that a pixel is made


def read_frames(path: str, field: str, height: int, width: int) -> NDArray[np.uint8]:
    """Return the frames (T, H, W, 3) of a picture or film; UserError, of the field, for another size."""
    file = Path(path)
    if not file.is_file():
        raise UserError(field, path, f"a picture or film{instead(file)}")
    frames = _decoded(path, field)
    if frames.shape[1:3] != (height, width):
        found = f"{frames.shape[1]} x {frames.shape[2]}"
        expected = f"a picture or film of {height} x {width} pixels, as the samples; this one has {found}"
        raise UserError(field, path, expected)
    return frames


def is_picture(path: str, field: str) -> bool:
    """Return whether a file has one frame, as a picture or a film; UserError, of the field, for neither."""
    return len(_decoded(path, field)) == 1


def _decoded(path: str, field: str) -> NDArray[np.uint8]:
    """Return the frames (T, H, W, 3) of a file; UserError, of the field, where it cannot be read."""
    try:
        facts = Path(path).stat()
        return _frames_of(path, facts.st_size, facts.st_mtime_ns)
    except (MediaError, OSError) as error:
        raise UserError(field, path, f"a picture or film that can be read ({error})") from None


@lru_cache(maxsize=2)  # what one sample begins and ends with, which is checked, described and encoded in turn
def _frames_of(path: str, size: int, modified_ns: int) -> NDArray[np.uint8]:
    data = read_bytes(Path(path), LARGEST_FILE)
    return decode_image(data)[None] if suffix_of(data) in IMAGE_FORMATS else decode_video(data)


def read_mask(path: str, height: int, width: int, factor: int) -> NDArray[np.bool_]:
    """Return where latents (H', W') are made: where any pixel of theirs is white.  factor: pixels a latent.

    UserError for a mask that has nothing to be made, or keeps nothing.
    """
    frames = read_frames(path, "mask", height, width)
    if len(frames) > 1:
        raise UserError("mask", path, "a picture, not a film")
    made = frames[0].mean(-1) >= WHITE
    if not made.any():
        raise UserError("mask", path, "a picture with white parts, which are made; nothing in this one is")
    cells = made.reshape(height // factor, factor, width // factor, factor).any((1, 3))
    if cells.all():
        expected = "a picture with black parts, which are kept: every latent of this one has white pixels"
        raise UserError("mask", path, expected)
    return cells
