"""Read TIFF of 16 bits that FFmpeg does not read, or reads as black: tiles, BigTIFF, other compressions.

Pillow keeps the upper bytes of such colours alone. With the order of bytes turned round it keeps the lower
ones, so two passes give all bits.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from data.media.stills.still import opened_image

_COMPRESSION, _PHOTOMETRIC, _PLANAR, _TILE_WIDTH = 259, 262, 284, 322
_OF_FFMPEG = {1, 5, 8, 32773, 32946}  # none, LZW, deflate, PackBits
_BIG = (b"II\x2b\0", b"MM\0\x2b")


def is_tiled(tags: Any) -> bool:
    """Return whether a TIFF is made of tiles."""
    return _TILE_WIDTH in tags


def is_deep_mode(mode: str) -> bool:
    """Return whether pictures of this mode of Pillow's may have more than 8 bits: no alpha, no inks."""
    return mode == "RGB" or mode.startswith("I")


def is_for_ffmpeg(data: bytes, tags: Any) -> bool:
    """Return whether FFmpeg reads a TIFF with these tags."""
    return not is_tiled(tags) and tags.get(_COMPRESSION, 1) in _OF_FFMPEG and data[:4] not in _BIG


def read_deep_tiff(data: bytes, tags: Any) -> np.ndarray | None:
    """Read uint16 (H, W, 1 or 3), full range, turned as displayed; None where Pillow reads 8 bits alone."""
    upper = _loaded(data, swapped=False)
    if upper is None or tags.get(_PLANAR, 1) == 2:
        return None
    if upper.dtype == np.uint16:
        grey = upper[..., None]
        return 65535 - grey if tags.get(_PHOTOMETRIC) == 0 else grey
    lower = _loaded(data, swapped=True)
    return None if lower is None else upper.astype(np.uint16) << 8 | lower


def _loaded(data: bytes, *, swapped: bool) -> np.ndarray | None:
    """Return the bytes of RGB, uint8 (H, W, 3), or all of grey, uint16 (H, W); None for other forms.

    swapped: whether the lower bytes are taken.
    """
    with opened_image(data, "tif") as image:
        if image.mode.startswith("I;16"):
            return np.asarray(image).astype(np.uint16)
        if image.mode != "RGB":
            return None
        tiles = [tile._replace(args=_other(tile.args) if swapped else tile.args) for tile in image.tile]
        if not all("16" in str(tile.args) for tile in tiles):
            return None
        image.tile = tiles
        return np.asarray(image)


def _other(args: Any) -> Any:
    """Return arguments of Pillow's decoder with the other order of bytes."""
    if isinstance(args, tuple):
        return (_other(args[0]), *args[1:])
    form, order = args[:-1], args[-1]
    native = "L" if sys.byteorder == "little" else "B"
    return form + {"L": "B", "B": "L"}[native if order == "N" else order]
