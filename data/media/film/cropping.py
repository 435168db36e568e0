"""The rectangle that a container says is shown of its pictures: `clap` of MP4, `PixelCrop…` of Matroska.

libavformat reads both, but PyAV does not pass on what it finds. Codecs crop too (H.264 and HEVC, to sizes
that are no multiple of a block); their decoders do that themselves.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from fractions import Fraction

from data.media.film.geometry import Crop
from data.media.formats import MediaError

_ENTRY = 78  # bytes of a VisualSampleEntry before its boxes (ISO/IEC 14496-12, 12.1.3)
_SEGMENT, _TRACKS, _ENTRIES, _VIDEO = 0x18538067, 0x1654AE6B, 0xAE, 0xE0  # RFC 9559, section 5.1
_CLUSTER = 0x1F43B675
_CROPS = {0x54CC: "left", 0x54BB: "top", 0x54DD: "right", 0x54AA: "bottom"}


def container_crop(data: bytes, suffix: str, number: int) -> Crop:
    """What the container crops of its stream `number`; nothing where it does not say so.

    suffix: mp4 or mkv, as `data.media.formats.suffix_of` gives it; other containers crop nothing.
    """
    tracks = {"mp4": _mp4_crops, "mkv": _matroska_crops}.get(suffix)
    crops = list(tracks(memoryview(data))) if tracks else []
    return crops[number] if number < len(crops) else Crop()


def _mp4_crops(data: memoryview) -> Iterator[Crop]:
    """The crop of every track, in the order of the file."""
    for kind, moov in _boxes(data):
        if kind == b"moov":
            yield from (_track_crop(track) for name, track in _boxes(moov) if name == b"trak")


def _track_crop(track: memoryview) -> Crop:
    places = [track]
    for wanted in (b"mdia", b"minf", b"stbl", b"stsd"):
        places = [box for place in places for name, box in _boxes(place) if name == wanted]
    for place in places:
        for _, entry in _boxes(place[8:]):  # version, flags and the number of entries come first
            for name, box in _boxes(entry[_ENTRY:]):
                if name == b"clap" and len(box) >= 32:
                    return _clean_aperture(box, *struct.unpack_from(">HH", entry, 24))
    return Crop()


def _clean_aperture(box: memoryview, width: int, height: int) -> Crop:
    """(ISO/IEC 14496-12, 12.1.4): four fractions: width, height, and offsets of the centre."""
    fields = struct.unpack_from(">IIIIiIiI", box)
    if not all(fields[1::2]):
        raise MediaError("its clean aperture has a denominator of 0")
    wide, high, right, down = (Fraction(n, d) for n, d in zip(fields[::2], fields[1::2], strict=True))
    left = round((width - wide) / 2 + right)
    top = round((height - high) / 2 + down)
    crop = Crop(left, top, width - left - round(wide), height - top - round(high))
    if min(crop) < 0:
        raise MediaError(f"its clean aperture reaches beyond the picture: {tuple(crop)}")
    return crop


def _boxes(data: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    """(kind, content) of the boxes that lie in `data`; a damaged length ends them."""
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
        yield kind, data[begin:end]
        at = end


def _matroska_crops(data: memoryview) -> Iterator[Crop]:
    """The crop of every track, in the order of the file."""
    for name, segment in _elements(data):
        if name != _SEGMENT:
            continue
        for part, content in _elements(segment):
            if part == _CLUSTER:
                return
            if part == _TRACKS:
                yield from (_video_crop(track) for kind, track in _elements(content) if kind == _ENTRIES)


def _video_crop(track: memoryview) -> Crop:
    edges = {}
    for name, video in _elements(track):
        if name == _VIDEO:
            for kind, value in _elements(video):
                if kind in _CROPS:
                    edges[_CROPS[kind]] = int.from_bytes(value, "big")
    return Crop(**edges)


def _elements(data: memoryview) -> Iterator[tuple[int, memoryview]]:
    """(identity, content) of the EBML elements in `data` (RFC 8794); an unknown length reaches to the end."""
    at = 0
    while at < len(data):
        name, at, _ = _number(data, at, marked=True)
        if name == 0 or at >= len(data):
            return
        size, at, unknown = _number(data, at, marked=False)
        end = len(data) if unknown else min(at + size, len(data))
        yield name, data[at:end]
        at = end


def _number(data: memoryview, at: int, marked: bool) -> tuple[int, int, bool]:
    """A number of variable length, where it ends, and whether it says `unknown`; 0 if it is none.

    marked: keep the bit that says its length, as identities do.
    """
    length = 9 - data[at].bit_length()
    if length > 8 or at + length > len(data):
        return 0, len(data), False
    value = int.from_bytes(data[at : at + length], "big")
    plain = value & ((1 << 7 * length) - 1)
    return value if marked else plain, at + length, plain == (1 << 7 * length) - 1
