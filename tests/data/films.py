"""Videos that say something of themselves, as cameras and tools write them: plain ones with bytes changed."""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence

import av
import numpy as np

Matrix = tuple[int, int, int, int]


def with_matrix(data: bytes, matrix: Matrix) -> bytes:
    """An MP4 whose track header maps (x, y) to (a x + c y, b x + d y).  matrix: a, b, c, d."""
    a, b, c, d = (value << 16 for value in matrix)
    at = data.index(b"tkhd") + 4 + 24 + 16
    return data[:at] + struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30) + data[at + 36 :]


def with_clean_aperture(data: bytes, width: int, height: int, right: int, down: int) -> bytes:
    """An MP4 that shows width x height of its pictures, their centre moved by halves of (right, down)."""
    clap = struct.pack(">I4sIIIIiIiI", 40, b"clap", width, 1, height, 1, right, 2, down, 2)
    out = bytearray(data)
    at = data.index(b"avc1", data.index(b"stsd")) - 4
    end = at + struct.unpack_from(">I", data, at)[0]
    out[end:end] = clap
    places = [data.index(name) - 4 for name in (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsd")]
    for place in [*places, at]:
        struct.pack_into(">I", out, place, struct.unpack_from(">I", out, place)[0] + len(clap))
    return bytes(out)


def with_matroska_crop(data: bytes, left: int, top: int) -> bytes:
    """A Matroska file that crops its pictures, written over two elements that say nothing."""
    unit, blocks = b"\x54\xb2\x81\x04", b"\x55\xee\x81\x00"  # DisplayUnit=unknown, MaxBlockAdditionID=0
    at = data.index(unit + blocks)
    video = data.rindex(b"\xe0\x8a", 0, at)  # its content ends between the two, 10 bytes; now it has both
    crop = b"\x54\xcc\x81" + bytes([left]) + b"\x54\xbb\x81" + bytes([top])
    return data[:video] + b"\xe0\x8e" + data[video + 2 : at] + crop + data[at + len(crop) :]


def with_edit(data: bytes, first_ticks: int, lasts_ms: int | None = None) -> bytes:
    """An MP4 with an edit list whose only entry begins at another time of the media."""
    at = data.index(b"elst") + 12
    lasts = struct.unpack_from(">I", data, at)[0] if lasts_ms is None else lasts_ms
    return data[:at] + struct.pack(">Ii", lasts, first_ticks) + data[at + 8 :]


def copied(data: bytes, format: str) -> bytes:
    """The packets of a file in another container, with the times its reader gave them, or one a frame."""
    out = io.BytesIO()
    with av.open(io.BytesIO(data)) as source, av.open(out, "w", format=format) as target:
        copy = target.add_stream_from_template(source.streams.video[0])
        for number, packet in enumerate(source.demux(source.streams.video[0])):
            if packet.size:
                if packet.dts is None:  # of a raw stream
                    packet.pts = packet.dts = round(number / 8 / packet.time_base)
                packet.stream = copy
                target.mux(packet)
    return out.getvalue()


def avi_chunks(data: bytes) -> list[bytes]:
    """The content of all chunks of an AVI with one stream."""
    chunks, at = [], data.index(b"movi") + 4
    while data[at : at + 4] == b"00dc":
        (size,) = struct.unpack_from("<I", data, at + 4)
        chunks.append(data[at + 8 : at + 8 + size])
        at += 8 + size + size % 2
    return chunks


def avi_of(data: bytes, chunks: Sequence[bytes], keys: Sequence[int] = (0,)) -> bytes:
    """The AVI with other chunks, its index and numbers of frames to match.  keys: places of keyframes."""
    movi, index, offset = b"", b"", 4
    for place, chunk in enumerate(chunks):
        index += struct.pack("<4sIII", b"00dc", 16 * (place in keys), offset, len(chunk))
        movi += b"00dc" + struct.pack("<I", len(chunk)) + chunk + bytes(len(chunk) % 2)
        offset += 8 + len(chunk) + len(chunk) % 2
    begin = data.index(b"movi")
    out = bytearray(data[: begin - 4] + struct.pack("<I", 4 + len(movi)) + b"movi" + movi)
    out += b"idx1" + struct.pack("<I", len(index)) + index
    struct.pack_into("<I", out, 4, len(out) - 8)
    for name, offset in ((b"avih", 24), (b"strh", 40)):
        struct.pack_into("<I", out, out.index(name) + offset, len(chunks))
    return bytes(out)


def interlaced(frames: np.ndarray, top_first: bool = True) -> np.ndarray:
    """Half as many frames: rows of one kind from even frames, of the other from odd ones."""
    woven = frames[::2].copy()
    rows = slice(1, None, 2) if top_first else slice(0, None, 2)
    woven[:, rows] = frames[1::2][:, rows]
    return woven


def moving_bars(frames: int = 80, height: int = 96, width: int = 128) -> np.ndarray:
    """A checked pattern that moves to the right, (frames, height, width, 3)."""
    y, x = np.mgrid[:height, :width]
    bars = [((x - 3 * t) % 48 < 24) ^ (y % 40 < 20) for t in range(frames)]
    return (np.stack(bars)[..., None] * 160 + 40).repeat(3, -1).astype(np.uint8)
