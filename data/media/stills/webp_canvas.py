"""Tell libwebp that an animated WebP has clear parts, where its pictures leave some of the canvas free.

A file of opaque pictures says that it has no alpha; what none of them covers would then be black.
"""

from __future__ import annotations

from collections.abc import Iterator

_ANIMATION, _ALPHA = 0x02, 0x10  # flags of VP8X (WebP container specification)
_FLAGS = 20  # their place in the file


def has_free_canvas(data: bytes) -> bool:
    """Return whether an animated WebP without alpha has pictures that do not cover its canvas."""
    if data[12:16] != b"VP8X" or not data[_FLAGS] & _ANIMATION or data[_FLAGS] & _ALPHA:
        return False
    canvas = data[24:30]
    parts = [content for kind, content in _chunks(data) if kind == b"ANMF" and len(content) >= 16]
    small = [part[6:12] != canvas for part in parts]
    return any(small) and (small[0] or any(part[15] & 1 for part in parts[:-1]))  # then it is cleared


def with_clear_canvas(data: bytes) -> bytes:
    """Return the same file, which says that it has alpha if its canvas is seen."""
    if not has_free_canvas(data):
        return data
    return data[:_FLAGS] + bytes([data[_FLAGS] | _ALPHA]) + data[_FLAGS + 1 :]


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 12
    while at + 8 <= len(data):
        length = int.from_bytes(data[at + 4 : at + 8], "little")
        yield data[at : at + 4], data[at + 8 : at + 8 + length]
        at += 8 + length + length % 2
