"""Find pictures in which a decoder filled in what is missing, without a word.

Pillow and libjpeg end a JPEG that stops early, but properly, with blocks of one colour; Pillow and FFmpeg end
a PNG whose packed rows are too few with zeros. So a picture with a corner or an edge that may be filled in is
looked at again.
"""

from __future__ import annotations

import struct
import zlib

import numpy as np

from data.media.formats import MediaError
from data.media.stills.deep import is_sound_jpeg
from data.media.stills.rendering import Pixels
from data.media.stills.still import Still

_BLOCK = 8  # pixels of a side of a JPEG's blocks
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by PNG's kind of colour
# Of each pass of an interlaced PNG: first row and column, steps between rows and columns.
_PASSES = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))


def require_whole(still: Still, pixels: Pixels) -> None:
    """Raise MediaError if a part of the pixels was not in the file. pixels: uint8 (H, W, 3), as displayed."""
    if still.suffix == "jpg" and still.jpeg.unfinished:
        raise MediaError("damaged image: its last passes, which refine it, are not there")
    if still.suffix == "jpg" and _has_flat_corner(pixels) and not is_sound_jpeg(still.data):
        raise MediaError("damaged image: its last rows are not there")
    if still.suffix == "png" and (still.depth == 16 or _has_plain_edge(pixels)):
        missing = _missing_bytes(still.data)
        if missing > 0:
            raise MediaError(f"damaged image: the last {missing} bytes of its pixels are not there")


def _has_flat_corner(pixels: Pixels) -> bool:
    ends = slice(None, _BLOCK), slice(-_BLOCK, None)
    corners = (pixels[rows, columns] for rows in ends for columns in ends)
    return any((corner == corner[0, 0]).all() for corner in corners)


def _has_plain_edge(pixels: Pixels) -> bool:
    """Return whether an edge is all black, or white, which is behind what is clear."""
    edges = pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]
    return any(np.ptp(edge) == 0 and edge.flat[0] in (0, 255) for edge in edges)


def _missing_bytes(data: bytes) -> int:
    """Return how many bytes the rows of a PNG have too few, filters included."""
    width, height, bits, kind, _, _, is_interlaced = struct.unpack_from(">IIBBBBB", data, 16)
    passes = _PASSES if is_interlaced else ((0, 0, 1, 1),)
    expected = 0
    for top, left, down, across in passes:
        rows, columns = -(-(height - top) // down), -(-(width - left) // across)
        if rows > 0 and columns > 0:
            expected += rows * (1 + -(-columns * bits * _CHANNELS[kind] // 8))
    return expected - _unpacked(data, expected)


def _unpacked(data: bytes, most: int) -> int:
    """Return how many bytes the pixels of a PNG unpack to, counted up to `most`."""
    unpacker, count, at = zlib.decompressobj(), 0, 8
    while at + 8 <= len(data) and count < most:
        length, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        packed = data[at + 8 : at + 8 + length] if kind == b"IDAT" else b""
        while packed and count < most:
            count += len(unpacker.decompress(packed, 1 << 16))
            packed = unpacker.unconsumed_tail
        at += 12 + length
    return count
