"""Read what a PNG declares beside its pixels from its chunks, and the file without them.

Pillow refuses a whole picture for a text or a profile that is larger than it likes, or a damaged chunk that
has nothing to do with pixels. So it gets the chunks that make pixels; the rest is read here, within limits.
"""

from __future__ import annotations

import struct
import zlib
from typing import NamedTuple

import numpy as np

from data.media.colour import BT709, PRIMARIES, UNSAID, Colour, colour_of
from data.media.formats import MediaError

SRGB = 13
LONGEST_PROFILE = 2**22  # bytes; the largest in use, of printers, have some 3 MiB
LONGEST_TEXT = 2**16  # bytes of a text or EXIF chunk that is not counted as ignored
_PIXELS = {b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"acTL", b"fcTL", b"fdAT"}
_TEXT = {b"tEXt", b"zTXt", b"iTXt"}


class PngFacts(NamedTuple):
    """pixels: the file with the chunks that make pixels, and EXIF.  depth: bits of a channel.

    colour: None where nothing, or sRGB, is said.  ignored: what is passed over, in words.
    density: pixels of a unit, (across, down); (0, 0) if it is not said.
    """

    pixels: bytes
    depth: int
    colour: Colour | None
    profile: bytes
    ignored: tuple[str, ...]
    density: tuple[int, int]


def read_png(data: bytes) -> PngFacts:
    """Split a PNG file; what is cut off or damaged among the pixels is left to the decoder."""
    kept, ignored = [data[:8]], []
    said: dict[bytes, bytes] = {}
    at = 8
    while at + 8 <= len(data):
        length, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        chunk = data[at : at + 12 + length]
        at += 12 + length
        content = chunk[8 : 8 + length]
        is_right = len(chunk) == 12 + length and zlib.crc32(chunk[4:-4]) == int.from_bytes(chunk[-4:], "big")
        if kind in _PIXELS:
            if len(chunk) == 12 + length and not is_right:
                raise MediaError(f"damaged image: its chunk {kind.decode()} is not as it was written")
            kept.append(scaled(chunk, data) if kind == b"tRNS" else chunk)
        elif kind in _TEXT:
            ignored += ["large text"] * (length > LONGEST_TEXT)
        elif is_right:
            said.setdefault(kind, content)
        elif kind in (b"iCCP", b"cICP", b"gAMA", b"cHRM", b"eXIf"):
            ignored.append(f"damaged {kind.decode()}")
        if kind == b"IEND":
            break
    if b"eXIf" in said:
        kept.insert(2, chunk_of(b"eXIf", said[b"eXIf"]))
    profile = b""
    if b"iCCP" in said and b"cICP" not in said:
        profile = _profile(said[b"iCCP"])
        ignored += [] if profile else ["damaged iCCP"]
    gamma = said.get(b"gAMA", b"")
    ignored += ["impossible gAMA"] * (len(gamma) == 4 and not is_possible(int.from_bytes(gamma, "big") / 1e5))
    depth = data[24] if len(data) > 24 else 8
    colour = None if profile else _colour(said)
    across, down, _ = struct.unpack(">IIB", said[b"pHYs"]) if len(said.get(b"pHYs", b"")) == 9 else (0, 0, 0)
    return PngFacts(b"".join(kept), depth, colour, profile, tuple(dict.fromkeys(ignored)), (across, down))


def has_scaled_grey(data: bytes) -> bool:
    """Return whether a PNG has grey of 2 or 4 bits, which Pillow brings to 8."""
    return data[24:26] in (b"\2\0", b"\4\0")


def scaled(chunk: bytes, data: bytes) -> bytes:
    """Return tRNS with the clear grey at 8 bits, as Pillow compares it, where a PNG has 2 or 4."""
    if not has_scaled_grey(data) or len(chunk) != 14:
        return chunk
    most = 2 ** data[24] - 1
    return chunk_of(b"tRNS", struct.pack(">H", (int.from_bytes(chunk[8:10], "big") & most) * 255 // most))


def is_possible(gamma: float) -> bool:
    """Return whether a gAMA can be meant: 1/2.8 to 1 of files, or of screens, by mistake, up to 2.8."""
    return 0.1 <= gamma <= 10


def chunk_of(kind: bytes, content: bytes) -> bytes:
    """Return a chunk as files have it, with its length and checksum."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _profile(content: bytes) -> bytes:
    """Return the ICC profile in an iCCP chunk; b"" if it is damaged or larger than any in use."""
    unpacker = zlib.decompressobj()
    try:
        profile = unpacker.decompress(content[content.index(b"\0") + 2 :], LONGEST_PROFILE)
    except (zlib.error, ValueError):
        return b""
    return profile if unpacker.eof else b""


def _colour(said: dict[bytes, bytes]) -> Colour | None:
    """Return the colour that cICP states.

    Without cICP, gAMA and cHRM decide, unless sRGB is there (PNG, third edition, 4.3).
    """
    if len(said.get(b"cICP", b"")) == 4:
        return colour_of(said[b"cICP"][0], said[b"cICP"][1])
    if b"sRGB" in said or (len(said.get(b"gAMA", b"")) != 4 and len(said.get(b"cHRM", b"")) != 32):
        return None
    name, primaries = PRIMARIES[BT709]
    if len(said.get(b"cHRM", b"")) == 32:
        x = [value / 1e5 for value in struct.unpack(">8I", said[b"cHRM"])]
        found = ((x[2], x[3]), (x[4], x[5]), (x[6], x[7]), (x[0], x[1]))
        if np.abs(np.subtract(found, primaries)).max() > 0.002 and all(y > 0 for _, y in found):
            name, primaries = "own primaries (cHRM)", found
    stated = int.from_bytes(said[b"gAMA"], "big") / 1e5 if len(said.get(b"gAMA", b"")) == 4 else 0.0
    stated = stated if is_possible(stated) else 0.0
    gamma = 1 / stated if stated and not 0.43 < stated < 0.48 else 0.0  # 1/2.2 stands for sRGB
    return Colour(name, primaries, SRGB if not gamma else UNSAID, gamma)
