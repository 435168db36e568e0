"""Colour codes (nclx) of an AVIF file, which Pillow does not tell, from its boxes (ISO/IEC 23008-12)."""

from __future__ import annotations

import struct
from collections.abc import Iterator

Codes = tuple[int, int]


def nclx(data: bytes) -> Codes | None:
    """(primaries, transfer) in the codes of H.273 of the primary picture; None if the file does not say."""
    try:
        return _primary_codes(data)
    except (struct.error, IndexError):
        return None


def _primary_codes(data: bytes) -> Codes | None:
    boxes = {kind: (start, stop) for kind, start, stop in _boxes(data, 0, len(data))}
    if b"meta" not in boxes:
        return None
    start, stop = boxes[b"meta"]
    inside = {kind: (first, last) for kind, first, last in _boxes(data, start + 4, stop)}
    if b"iprp" not in inside:
        return None
    parts = list(_boxes(data, *inside[b"iprp"]))
    properties = [box for kind, *place in parts if kind == b"ipco" for box in _boxes(data, *place)]
    primary = _primary(data, *inside[b"pitm"]) if b"pitm" in inside else 1
    for kind, first, _ in parts:
        if kind == b"ipma":
            for number in _associated(data, first).get(primary, ()):
                name, at, _ = properties[number - 1]
                if name == b"colr" and data[at : at + 4] == b"nclx":
                    return struct.unpack_from(">HH", data, at + 4)
    return None


def _boxes(data: bytes, start: int, stop: int) -> Iterator[tuple[bytes, int, int]]:
    """(kind, start, stop) of the content of each box between two places."""
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
    """Item -> numbers of its properties, from 1 (box ipma)."""
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
