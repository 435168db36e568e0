"""Pictures and films that declare their colours: ICC profiles, PNG chunks, codes of H.273."""

from __future__ import annotations

import io
import struct
import zlib
from fractions import Fraction

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter

SHARP = Interpolation.BICUBIC | Interpolation.FULL_CHR_H_INT | Interpolation.ACCURATE_RND
D50 = (0.9642, 1.0, 0.8249)
# Display P3 adapted to D50, columns red, green, blue (SMPTE EG 432-1 with ICC's Bradford adaptation).
P3_D50 = ((0.5151, 0.2920, 0.1571), (0.2412, 0.6922, 0.0666), (-0.0011, 0.0419, 0.7841))
P3_TO_BT709 = np.array([[1.2249, -0.2247, 0], [-0.0420, 1.0419, 0], [-0.0196, -0.0786, 1.0979]])
BT2020_TO_BT709 = np.array(
    [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]]
)


def pq(light: np.ndarray) -> np.ndarray:
    """Return the code in [0, 1] of cd/m2, SMPTE ST 2084."""
    y = (np.asarray(light, float) / 10000) ** (2610 / 16384)
    return ((3424 / 4096 + 2413 / 128 * y) / (1 + 2392 / 128 * y)) ** (2523 / 32)


def hlg_light(code: np.ndarray) -> np.ndarray:
    """Return the scene light in [0, 1] of HLG codes, ITU-R BT.2100."""
    e = np.asarray(code, float)
    return np.where(e <= 0.5, e * e / 3, (np.exp((e - 0.55991073) / 0.17883277) + 0.28466892) / 12)


def srgb_code(light: np.ndarray) -> np.ndarray:
    """Return the sRGB code, uint8 as float, of linear light, clipped (IEC 61966-2-1)."""
    clipped = np.clip(light, 0, 1)
    code = np.where(clipped <= 0.0031308, 12.92 * clipped, 1.055 * clipped ** (1 / 2.4) - 0.055)
    return np.round(255 * code)


def srgb_light(code: np.ndarray) -> np.ndarray:
    """Return the linear light of sRGB codes in [0, 1]."""
    code = np.asarray(code, float)
    return np.where(code <= 0.04045, code / 12.92, ((code + 0.055) / 1.055) ** 2.4)


def bt709_code(light: np.ndarray) -> np.ndarray:
    """Return the code, uint8 as float, of linear light, clipped, by the inverse of ITU-R BT.1886."""
    return np.round(255 * np.clip(light, 0, 1) ** (1 / 2.4))


def chunk(kind: bytes, content: bytes) -> bytes:
    """Return a chunk of a PNG file."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_of(*chunks: bytes) -> bytes:
    """Return a PNG file of its chunks but the last, which has nothing in it."""
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks) + chunk(b"IEND", b"")


def deep_png(codes: np.ndarray, before: bytes = b"") -> bytes:
    """Encode uint16 (H, W, C) as a PNG of 16 bits a channel. before: chunks ahead of its pixels."""
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[codes.shape[-1]]
    height, width = codes.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in codes.reshape(height, -1))
    header = struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)
    return png_of(chunk(b"IHDR", header), before, chunk(b"IDAT", zlib.compress(rows)))


def with_chunk(png: bytes, added: bytes) -> bytes:
    """Insert one more chunk into a PNG file, ahead of its pixels."""
    at = png.index(b"IDAT") - 4
    return png[:at] + added + png[at:]


def profile(space: bytes = b"RGB ", gamma: float = 2.2, columns: tuple = P3_D50) -> bytes:
    """Return a small ICC profile of version 2: primaries and a gamma, or for b"GRAY" a gamma."""
    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256))
    tags = {
        b"desc": b"desc\0\0\0\0" + struct.pack(">I", 9) + b"measured\0" + bytes(78),
        b"cprt": b"text\0\0\0\0none\0",
        b"wtpt": _xyz(D50),
    }
    if space == b"GRAY":
        tags[b"kTRC"] = curve
    else:
        for place, name in enumerate((b"r", b"g", b"b")):
            tags |= {name + b"XYZ": _xyz([row[place] for row in columns]), name + b"TRC": curve}
    table, body, start = b"", b"", 128 + 4 + 12 * len(tags)
    for name, content in tags.items():
        table += name + struct.pack(">II", start + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    kind = b"lcms" + b"\x02\x40\0\0" + b"mntr" + space + b"XYZ " + bytes(12) + b"acsp" + bytes(28)
    header = struct.pack(">I", start + len(body)) + kind + _xyz(D50)[8:] + bytes(48)
    return header + struct.pack(">I", len(tags)) + table + body


def _xyz(values: object) -> bytes:
    return b"XYZ \0\0\0\0" + b"".join(struct.pack(">i", round(v * 65536)) for v in values)


def coloured_film(
    codes: np.ndarray,
    *,
    primaries: int,
    transfer: int,
    matrix: int = 9,
    codec: str = "ffv1",
    container: str = "matroska",
    format: str = "yuv444p12le",
) -> bytes:
    """Make a film of two equal frames with a row of patches of 16 pixels; codes: (N, 3) in [0, 1]."""
    frame = patches(codes, matrix, format)
    file = io.BytesIO()
    with av.open(file, "w", format=container) as out:
        # With frames that wait for later ones its decoding times are undefined for a film as short as this.
        options = {"x265-params": "log-level=none:bframes=0"} if codec == "libx265" else {}
        stream = out.add_stream(codec, rate=8, options=options)
        stream.width, stream.height, stream.pix_fmt = frame.width, frame.height, format
        context = stream.codec_context
        context.color_primaries, context.color_trc, context.colorspace = primaries, transfer, matrix
        context.color_range = 1
        for number in range(2):
            frame.pts, frame.time_base = number, Fraction(1, 8)
            frame.color_primaries, frame.color_trc = primaries, transfer
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    return file.getvalue()


def patches(codes: np.ndarray, matrix: int = 9, format: str = "yuv444p12le") -> av.VideoFrame:
    """Make a frame of luma and chroma, limited range, by a matrix that H.273 and swscale number alike."""
    wide = np.round(np.asarray(codes) * 65535).astype(np.uint16)[None].repeat(32, 0).repeat(16, 1)
    source = av.VideoFrame.from_ndarray(np.ascontiguousarray(wide), format="rgb48le")
    return VideoReformatter().reformat(
        source, format=format, dst_colorspace=matrix, dst_color_range=1, interpolation=SHARP, threads=1
    )
