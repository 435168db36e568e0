"""Read colour codes (nclx) and clean aperture of AVIF, which Pillow passes over (ISO/IEC 23008-12)."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from data.media.film.cropping import clean_aperture
from data.media.film.geometry import Crop

Codes = tuple[int, int]


def nclx(data: bytes) -> Codes | None:
    """Return (primaries, transfer) of the primary picture, in codes of H.273.

    None if the file does not say.
    """
    for name, content in _properties(data):
        if name == b"colr" and content[:4] == b"nclx" and len(content) >= 8:
            return struct.unpack_from(">HH", content, 4)
    return None


def cropped(data: bytes, width: int, height: int) -> Crop:
    """Return what the primary picture of width x height pixels hides at its edges; nothing if not said."""
    for name, content in _properties(data):
        if name == b"clap" and len(content) >= 32:
            return clean_aperture(memoryview(content), width, height)
    return Crop()


def pixel_spacing(data: bytes) -> tuple[int, int]:
    """Return (width, height) of a pixel of the primary picture, to each other; (0, 0) if not said."""
    for name, content in _properties(data):
        if name == b"pasp" and len(content) >= 8:
            return struct.unpack_from(">II", content)
    return 0, 0


def _properties(data: bytes) -> list[tuple[bytes, bytes]]:
    """Return (kind, content) of the properties of the primary picture; none of a damaged file."""
    try:
        return list(_of_primary(data))
    except (struct.error, IndexError):
        return []


def _of_primary(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    boxes = {kind: (start, stop) for kind, start, stop in _boxes(data, 0, len(data))}
    if b"meta" not in boxes:
        return
    start, stop = boxes[b"meta"]
    inside = {kind: (first, last) for kind, first, last in _boxes(data, start + 4, stop)}
    if b"iprp" not in inside:
        return
    parts = list(_boxes(data, *inside[b"iprp"]))
    properties = [box for kind, *place in parts if kind == b"ipco" for box in _boxes(data, *place)]
    primary = _primary(data, *inside[b"pitm"]) if b"pitm" in inside else 1
    for kind, first, _ in parts:
        if kind == b"ipma":
            for number in _associated(data, first).get(primary, ()):
                name, at, end = properties[number - 1]
                yield name, data[at:end]


def _boxes(data: bytes, start: int, stop: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield (kind, start, stop) of the content of each box between two places."""
    while start + 8 <= stop:
        size, kind = struct.unpack_from(">I4s", data, start)
        header = 8
        if size == 1:
            size, header = struct.unpack_from(">Q", data, start + 8)[0], 16
        end = stop if size == 0 else start + size
        if end < start + header or end > stop:  # damaged
            return
        yield kind, start + header, end
        start = end


def _primary(data: bytes, start: int, stop: int) -> int:
    version = data[start]
    number: int = struct.unpack_from(">I" if version else ">H", data, start + 4)[0]
    return number


def _associated(data: bytes, start: int) -> dict[int, list[int]]:
    """Return {item: numbers of its properties, from 1} (box ipma)."""
    version, wide = data[start], data[start + 3] & 1
    (count,) = struct.unpack_from(">I", data, start + 4)
    at, found = start + 8, {}
    for _ in range(count):
        (item,) = struct.unpack_from(">I" if version else ">H", data, at)
        at += 4 if version else 2
        number, at = data[at], at + 1
        if wide:
            found[item] = [n & 0x7FFF for n in struct.unpack_from(f">{number}H", data, at)]
        else:
            found[item] = [n & 0x7F for n in data[at : at + number]]
        at += number * (2 if wide else 1)
    return found
