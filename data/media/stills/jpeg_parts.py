"""Read how a JPEG is made up: its passes, and what lies behind its picture (ITU-T T.81, annex B)."""

from __future__ import annotations

import re
from typing import NamedTuple

_START, _END, _SCAN, _PROGRESSIVE = 0xD8, 0xD9, 0xDA, 0xC2
_LS = 0xF7  # ISO/IEC 14495-1
_FRAMES = {_LS, *range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # SOF markers, which give bits and size
_ALONE = {0x01, *range(0xD0, 0xD9)}  # markers without a length
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # within packed coefficients: what ends them
_FILM = re.compile(rb"\x00\x00\x00[\x08-\x7f]ftyp[\x20-\x7e]{4}")


class JpegParts(NamedTuple):
    """What a JPEG consists of. end: of its picture, in bytes; the length of the file if it never ends.

    form: in words, where it is one that is hardly read; else "".
    unfinished: whether a later pass would have refined some of its coefficients.
    """

    end: int
    form: str
    unfinished: bool


def read_jpeg(data: bytes, start: int = 0) -> JpegParts:
    """Read the parts of the JPEG that begins at `start`; of a damaged one as far as it goes."""
    at, frame, form = start + 2, 0, ""
    precision: dict[tuple[int, int], int] = {}
    while at + 4 <= len(data) and data[at] == 0xFF:
        kind = data[at + 1]
        if kind == _END:
            at += 2
            break
        if kind == 0xFF or kind in _ALONE:
            at += 1 if kind == 0xFF else 2
            continue
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        content = data[at + 4 : at + 2 + length]
        if kind in _FRAMES and content:
            frame = kind
            form = "JPEG-LS" if kind == _LS else "" if content[0] == 8 else f"JPEG of {content[0]} bits"
        at += 2 + length
        if kind == _SCAN:
            precision |= _left_by(content)
            found = _MARKER.search(data, at)
            at = found.start() if found else len(data)
    else:
        at = len(data) if data[at : at + 2] != b"\xff\xd9" else at + 2
    return JpegParts(at, form, frame == _PROGRESSIVE and any(precision.values()))


def _left_by(scan: bytes) -> dict[tuple[int, int], int]:
    """Return how many low bits of each (component, coefficient) a pass leaves out."""
    count = scan[0] if scan else 0
    if len(scan) < 4 + 2 * count:
        return {}
    first, last, bits = scan[1 + 2 * count : 4 + 2 * count]
    components = scan[1 : 1 + 2 * count : 2]
    return {(component, k): bits & 15 for component in components for k in range(first, min(last, 63) + 1)}


def behind_jpeg(data: bytes, end: int, pages: int) -> str:
    """Say what else is in the file of a JPEG; "" for nothing.

    end: of its picture.  pages: pictures that its directory lists.
    """
    rest = data[end:]
    if _FILM.search(rest):
        return "a film, not used"
    if pages > 1 or not rest.startswith(b"\xff\xd8\xff"):
        return ""
    count, at = 0, 0
    while rest.startswith(b"\xff\xd8\xff", at):
        count, at = count + 1, read_jpeg(rest, at).end
    return f"{count} further picture{'s' * (count > 1)}, not used"
