"""Read the boxes of MP4 and QuickTime files (ISO/IEC 14496-12)."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from data.media.formats import MediaError, truncated

_FULL = 4  # bytes of version and flags


def boxes(data: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    """Yield (kind, content) of the boxes in `data`; stop at a damaged length."""
    for kind, begin, end in _places(data):
        yield kind, data[begin:end]


def require_one_whole_film(data: memoryview) -> None:
    """Raise MediaError for a file of two films, and for one that is shorter than its index of segments says.

    Of two files one behind the other the first alone is shown; the parts of a film in fragments may each
    repeat its header.
    """
    films = 0
    for kind, begin, end in _places(data):
        if kind == b"moov":
            films += all(name != b"mvex" for name, _ in boxes(data[begin:end]))
            if films > 1:
                raise MediaError(
                    "is two MP4 files one behind the other, and shows the first alone: join them"
                )
        if kind == b"sidx" and (missing := end + _referenced(data[begin:end]) - len(data)) > 0:
            raise truncated(missing)


def _referenced(index: memoryview) -> int:
    """Return how many bytes behind it a segment index lists (8.16.3)."""
    version = index[0] if index else 0
    at = _FULL + 8 + (16 if version else 8)
    if len(index) < at + 4:
        return 0
    first = int.from_bytes(index[at - (8 if version else 4) : at], "big")
    count = int.from_bytes(index[at + 2 : at + 4], "big")
    sizes = [int.from_bytes(index[at + 4 + 12 * k : at + 8 + 12 * k], "big") for k in range(count)]
    return first + sum(size & 0x7FFFFFFF for size in sizes)


def _places(data: memoryview) -> Iterator[tuple[bytes, int, int]]:
    """Yield (kind, begin, end) of the content of each box."""
    at = 0
    while at + 8 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        begin = at + 8
        if size == 1 and at + 16 <= len(data):
            (size,) = struct.unpack_from(">Q", data, begin)
            begin += 8
        end = len(data) if size == 0 else at + size
        if end < begin or end > len(data):
            return
        yield kind, begin, end
        at = end
