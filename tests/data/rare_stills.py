"""Pictures that no encoder at hand writes, or not with these fields: TIFF, BMP, animated PNG."""

from __future__ import annotations

import io
import struct

import numpy as np
from PIL import Image


def tiff(strips: list[bytes], bits: int, channels: int, *, planes: bool = False, form: int = 1) -> bytes:
    """Return a TIFF of 64 x 48 uncompressed pixels, little-endian. form: of samples, 2 being signed."""
    entries = {256: (64,), 257: (48,), 258: (bits,) * channels, 259: (1,), 262: (2 if channels == 3 else 1,)}
    entries |= {277: (channels,), 278: (48,), 284: (1 + planes,), 339: (form,) * channels}
    entries |= {279: tuple(map(len, strips))}
    return _tiff_of(entries, 273, strips, "<")


def tiled_tiff(
    codes: np.ndarray, side: int, order: str = "<", photometric: int = 0, orientation: int = 1
) -> bytes:
    """Return a TIFF of uint16 (H, W, C) in square tiles that divide it. photometric: 0 is white as 0."""
    height, width, channels = codes.shape
    tiles = [
        codes[y : y + side, x : x + side].astype(f"{order}u2").tobytes()
        for y in range(0, height, side)
        for x in range(0, width, side)
    ]
    entries = {256: (width,), 257: (height,), 258: (16,) * channels, 259: (1,), 262: (photometric,)}
    entries |= {274: (orientation,), 277: (channels,), 322: (side,), 323: (side,)}
    entries |= {325: tuple(map(len, tiles))}
    return _tiff_of(entries, 324, tiles, order)


def _tiff_of(entries: dict[int, tuple[int, ...]], places: int, parts: list[bytes], order: str) -> bytes:
    """Return a TIFF of tags and parts of its pixels. places: the tag that says where the parts lie."""
    entries = entries | {places: (0,) * len(parts)}
    end = 8 + 2 + 12 * len(entries) + 4
    begin = end + 4 * sum(len(values) for values in entries.values() if len(values) > 1)
    entries[places] = tuple(begin + sum(map(len, parts[:k])) for k in range(len(parts)))
    table, values_apart = b"", b""
    for tag, values in sorted(entries.items()):
        packed = struct.pack(f"{order}{len(values)}I", *values)
        place = packed if len(values) == 1 else struct.pack(f"{order}I", end + len(values_apart))
        table += struct.pack(f"{order}HHI", tag, 4, len(values)) + place
        values_apart += packed if len(values) > 1 else b""
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}IH", 8, len(entries))
    return head + table + bytes(4) + values_apart + b"".join(parts)


def twelve_bits(codes: np.ndarray) -> bytes:
    """Pack codes below 4096, an even number a row, as TIFF of 12 bits has them: three bytes of two."""
    first, second = codes.reshape(-1, 2).T
    packed = np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], -1)
    return packed.astype(np.uint8).tobytes()


def bitmap(picture: np.ndarray, kind: bytes, profile: bytes = b"") -> bytes:
    """Return a BMP with BITMAPV5HEADER of uint8 (48, 64, 3). kind: of its colours, as in the file."""
    pixels = picture[::-1, :, ::-1].tobytes()
    header = struct.pack("<IiiHHI", 124, 64, 48, 1, 24, 0).ljust(56, b"\0") + kind + bytes(48)
    header += struct.pack("<IIII", 4, 124 + len(pixels), len(profile), 0)
    return b"BM" + struct.pack("<III", 138 + len(pixels) + len(profile), 0, 138) + header + pixels + profile


def one_animated(shown: np.ndarray) -> bytes:
    """Return a PNG that is black, and shows one animated picture where animations are understood."""
    file = io.BytesIO()
    black, picture = Image.fromarray(np.zeros_like(shown)), Image.fromarray(shown)
    black.save(file, "PNG", save_all=True, append_images=[picture], default_image=True, duration=[50])
    return file.getvalue()


def with_property(picture: bytes, content: bytes) -> bytes:
    """Return an AVIF or HEIF with one more property of its primary picture, a box. content: of the box."""
    box = struct.pack(">I", 4 + len(content)) + content
    out = bytearray(picture)
    at = out.index(b"ipco") - 4
    (size,) = struct.unpack_from(">I", out, at)
    place, number = at + 8, 1
    while place < at + size:
        number, place = number + 1, place + struct.unpack_from(">I", out, place)[0]
    out[at + size : at + size] = box
    struct.pack_into(">I", out, at, size + len(box))
    at = out.index(b"ipma") - 4
    count = at + 18  # behind version, flags, one item and its number
    out[count + 1 + out[count] : count + 1 + out[count]] = bytes([number | 128])  # it must be understood
    out[count] += 1
    for name, more in ((b"ipma", 1), (b"iprp", len(box) + 1), (b"meta", len(box) + 1)):
        at = out.index(name) - 4
        struct.pack_into(">I", out, at, struct.unpack_from(">I", out, at)[0] + more)
    before, after = (struct.pack(">I", data.index(b"mdat") + 4) for data in (picture, bytes(out)))
    at = out.index(before, out.index(b"iloc"))  # where the picture's bytes are
    out[at : at + 4] = after
    return bytes(out)


def palette_of_bytes(numbers: np.ndarray, colours: np.ndarray) -> bytes:
    """Return a TIFF of uint8 (H, W) numbers of colours, uint8 (N, 3), stated as bytes."""
    height, width = numbers.shape
    table = np.zeros((3, 256), int)
    table[:, : len(colours)] = colours.T
    entries = {256: (width,), 257: (height,), 258: (8,), 259: (1,), 262: (3,), 277: (1,), 278: (height,)}
    entries |= {279: (numbers.size,), 320: tuple(table.flatten().tolist())}
    return _tiff_of(entries, 273, [numbers.tobytes()], "<")
