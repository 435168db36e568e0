"""Draw what Pillow draws otherwise than animated PNG and WebP say.

Of a PNG it mixes the alpha of a half clear picture with that of what lies below as if it were a colour, so
that an opaque picture becomes clear (PNG, third edition, section 12). A WebP of opaque pictures says that it
has no alpha; what none of them covers of the canvas would then be black.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from data.media.formats import PNG, MediaError
from data.media.stills.png_chunks import chunk_of, scaled

_OVER, _KEEP, _CLEAR = 1, 0, 1  # of blend_op; of dispose_op, whose third is to restore what was there
_ANIMATION, _ALPHA = 0x02, 0x10  # flags of VP8X (WebP container specification)
_FLAGS = 20  # their place in the file

Canvas = NDArray[np.uint8]


class _Part(NamedTuple):
    """A picture of the film. data: its IDAT, unpacked from chunks. delay_ms: how long it is shown."""

    width: int
    height: int
    left: int
    top: int
    delay_ms: float
    dispose: int
    blend: int
    data: bytes


def has_mixed_pictures(data: bytes) -> bool:
    """Return whether a PNG has pictures that lie over others and may be half clear."""
    is_clear = data[25:26] in (b"\4", b"\6") or any(kind == b"tRNS" for kind, _ in _chunks(data))
    return is_clear and any(kind == b"fcTL" and content[25:26] == b"\1" for kind, content in _chunks(data))


def composed(data: bytes, opened: Callable[[bytes, str], Any]) -> Iterator[tuple[float, Any]]:
    """Yield (milliseconds for which it is shown, Pillow image in RGBA) of each picture of the film.

    opened: opens a PNG of one part.  MediaError if a part lies outside of the picture.
    """
    from PIL import Image

    chunks = list(_chunks(data))
    header = next(content for kind, content in chunks if kind == b"IHDR")
    shared = [chunk_of(*chunk) for chunk in chunks if chunk[0] in (b"PLTE", b"tRNS")]
    shared = [scaled(chunk, data) if chunk[4:8] == b"tRNS" else chunk for chunk in shared]
    width, height = struct.unpack_from(">II", header)
    canvas: Canvas = np.zeros((height, width, 4), np.uint8)
    for number, part in enumerate(_parts(chunks)):
        if part.left + part.width > width or part.top + part.height > height:
            raise MediaError(f"damaged image: picture {number} of its film reaches beyond {width}x{height}")
        place = slice(part.top, part.top + part.height), slice(part.left, part.left + part.width)
        with opened(_alone(part, header, shared), "png") as image:
            pixels = np.asarray(image.convert("RGBA"))
        before = canvas[place].copy()
        canvas[place] = _over(pixels, before) if part.blend == _OVER else pixels
        yield part.delay_ms, Image.fromarray(canvas.copy())
        if part.dispose == _CLEAR or (part.dispose != _KEEP and number == 0):
            canvas[place] = 0
        elif part.dispose != _KEEP:
            canvas[place] = before


def _over(upper: Canvas, lower: Canvas) -> Canvas:
    """Lay straight RGBA over another."""
    cover = upper[..., 3:].astype(np.uint32) * 255
    rest = (255 - upper[..., 3:].astype(np.uint32)) * lower[..., 3:]
    whole = cover + rest
    mixed = (upper[..., :3] * cover + lower[..., :3] * rest + whole // 2) // np.maximum(whole, 1)
    return np.concatenate([mixed, (whole + 127) // 255], -1).astype(np.uint8)


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 8
    while at + 12 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        yield data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        at += 12 + length


def _parts(chunks: list[tuple[bytes, bytes]]) -> Iterator[_Part]:
    """Yield the pictures of the film; one before its first control chunk is none of them."""
    part: _Part | None = None
    for kind, content in chunks:
        if kind == b"fcTL":
            if part is not None:
                yield part
            _, width, height, left, top, shown, of, dispose, blend = struct.unpack(">IIIIIHHBB", content)
            part = _Part(width, height, left, top, shown / (of or 100) * 1000, dispose, blend, b"")
        elif part is not None and kind in (b"IDAT", b"fdAT"):
            part = part._replace(data=part.data + content[4 * (kind == b"fdAT") :])
    if part is not None:
        yield part


def _alone(part: _Part, header: bytes, shared: list[bytes]) -> bytes:
    """Return a part as a PNG of its own. shared: chunks of all parts."""
    size = struct.pack(">II", part.width, part.height)
    own = chunk_of(b"IHDR", size + header[8:]), chunk_of(b"IDAT", part.data), chunk_of(b"IEND", b"")
    return PNG + b"".join([own[0], *shared, *own[1:]])


def has_free_canvas(data: bytes) -> bool:
    """Return whether an animated WebP without alpha has pictures that do not cover its canvas."""
    if data[12:16] != b"VP8X" or not data[_FLAGS] & _ANIMATION or data[_FLAGS] & _ALPHA:
        return False
    canvas = data[24:30]
    parts = [content for kind, content in _riff_chunks(data) if kind == b"ANMF" and len(content) >= 16]
    small = [part[6:12] != canvas for part in parts]
    return any(small) and (small[0] or any(part[15] & 1 for part in parts[:-1]))  # then it is cleared


def with_clear_canvas(data: bytes) -> bytes:
    """Return a WebP that says that it has alpha if its canvas is seen."""
    if not has_free_canvas(data):
        return data
    return data[:_FLAGS] + bytes([data[_FLAGS] | _ALPHA]) + data[_FLAGS + 1 :]


def _riff_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 12
    while at + 8 <= len(data):
        length = int.from_bytes(data[at + 4 : at + 8], "little")
        yield data[at : at + 4], data[at + 8 : at + 8 + length]
        at += 8 + length + length % 2
