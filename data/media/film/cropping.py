"""The rectangle of its pictures that a container declares as shown: `clap` of MP4, `PixelCrop…` of Matroska.

libavformat reads both, but PyAV does not pass on what it finds. Codecs crop too (H.264 and HEVC, to sizes
that are no multiple of a block); their decoders do that themselves.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

from data.media.film.ebml import CLUSTER, SEGMENT, TRACKS, elements
from data.media.film.geometry import Crop
from data.media.film.iso_boxes import boxes
from data.media.formats import MediaError

_ENTRY = 78  # bytes of a VisualSampleEntry before its boxes (ISO/IEC 14496-12, 12.1.3)
_ENTRIES, _VIDEO = 0xAE, 0xE0  # RFC 9559, section 5.1
_CROPS = {0x54CC: "left", 0x54BB: "top", 0x54DD: "right", 0x54AA: "bottom"}


UNALIGNED = 1  # AV_CODEC_FLAG_UNALIGNED: else decoders leave what is cut at the left in, if it is under 32


def crops_at_the_left(context: Any, packets: Callable[[], Iterator[Any]]) -> bool:
    """Return whether a codec cuts its pictures at the left by less than decoders do unasked.

    context: its decoder, which has decoded a frame.  packets: gives those of the stream, from the first on.
    """
    if context.name not in ("h264", "hevc") or context.coded_width == context.width:
        return False
    import av

    plain: Any = av.CodecContext.create(context.name, "r")
    plain.extradata, plain.thread_count = context.extradata, 1
    for packet in packets():
        for frame in plain.decode(packet):
            return bool(frame.width != context.width)
    return False


def container_crop(data: bytes, suffix: str, number: int) -> Crop:
    """Return what the container crops of its stream `number`; nothing if it does not say so.

    suffix: mp4 or mkv, as `data.media.formats.suffix_of` gives it; other containers crop nothing.
    """
    tracks = {"mp4": _mp4_crops, "mkv": _matroska_crops}.get(suffix)
    crops = list(tracks(memoryview(data))) if tracks else []
    return crops[number] if number < len(crops) else Crop()


def _mp4_crops(data: memoryview) -> Iterator[Crop]:
    """Yield the crop of every track, in the order of the file."""
    for kind, moov in boxes(data):
        if kind == b"moov":
            yield from (_track_crop(track) for name, track in boxes(moov) if name == b"trak")


def _track_crop(track: memoryview) -> Crop:
    places = [track]
    for wanted in (b"mdia", b"minf", b"stbl", b"stsd"):
        places = [box for place in places for name, box in boxes(place) if name == wanted]
    for place in places:
        for _, entry in boxes(place[8:]):  # version, flags and the number of entries come first
            for name, box in boxes(entry[_ENTRY:]):
                if name == b"clap" and len(box) >= 32:
                    return clean_aperture(box, *struct.unpack_from(">HH", entry, 24))
    return Crop()


def clean_aperture(box: memoryview, width: int, height: int) -> Crop:
    """Parse the clean aperture, four fractions: width, height, offsets of the centre (ISO/IEC 14496-12,
    12.1.4).
    """
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


def _matroska_crops(data: memoryview) -> Iterator[Crop]:
    """Yield the crop of every track, in the order of the file."""
    for name, segment in elements(data):
        if name != SEGMENT:
            continue
        for part, content in elements(segment):
            if part == CLUSTER:
                return
            if part == TRACKS:
                yield from (_video_crop(track) for kind, track in elements(content) if kind == _ENTRIES)


def _video_crop(track: memoryview) -> Crop:
    edges = {}
    for name, video in elements(track):
        if name == _VIDEO:
            for kind, value in elements(video):
                if kind in _CROPS:
                    edges[_CROPS[kind]] = int.from_bytes(value, "big")
    return Crop(**edges)
