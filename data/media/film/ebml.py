"""Read the elements of EBML, of which Matroska and WebM are made (RFC 8794, RFC 9559)."""

from __future__ import annotations

from collections.abc import Iterator

SEGMENT, TRACKS, CLUSTER = 0x18538067, 0x1654AE6B, 0x1F43B675  # RFC 9559, section 5.1
# Parts of a segment: those, its index of parts, info, index of times, attachments, chapters and tags.
_PARTS = (TRACKS, CLUSTER, 0x114D9B74, 0x1549A966, 0x1C53BB6B, 0x1941A469, 0x1043A770, 0x1254C367)


def elements(data: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Yield (identity, content) of the elements in `data`.

    An unknown length reaches to the end, and so does one that goes beyond it.
    """
    for name, content, _ in _declared(data):
        yield name, content


def missing_bytes(data: memoryview) -> int:
    """Return how many bytes the elements of a file declare that it does not have.

    Where the segment's length is unknown, as of a live recording, that of its last part counts. What follows
    the segment is not looked at.
    """
    for name, content, missing in _declared(data):
        if missing or name == SEGMENT:
            return missing or max(
                (lacks for part, _, lacks in _declared(content) if part in _PARTS), default=0
            )
    return 0


def _declared(data: memoryview) -> Iterator[tuple[int, memoryview, int]]:
    """Yield identity and content of the elements in `data`, and how many bytes of each are missing."""
    at = 0
    while at < len(data):
        name, at, _ = _number(data, at, marked=True)
        if name == 0 or at >= len(data):
            return
        size, at, unknown = _number(data, at, marked=False)
        end = len(data) if unknown else min(at + size, len(data))
        yield name, data[at:end], 0 if unknown else at + size - end
        at = end


def _number(data: memoryview, at: int, marked: bool) -> tuple[int, int, bool]:
    """Parse a number of variable length: its value, where it ends, and whether it says `unknown`.

    0 if it is none.

    marked: keep the bit that says its length, as identities do.
    """
    length = 9 - data[at].bit_length()
    if length > 8 or at + length > len(data):
        return 0, len(data), False
    value = int.from_bytes(data[at : at + length], "big")
    plain = value & ((1 << 7 * length) - 1)
    return value if marked else plain, at + length, plain == (1 << 7 * length) - 1
