"""Packets of MPEG-4 Part 2 without a picture (N-VOP): the frame before stays, or a packed one is shown."""

from __future__ import annotations

from collections.abc import Iterator

MOST_SKIPPED = 19  # bytes of such a packet, as ffmpeg's mpeg4_unpack_bframes has it
_VOP, _VOL = b"\0\0\1\xb6", range(0x20, 0x30)  # start codes (ISO/IEC 14496-2, table 6-3)


class _Bits:
    def __init__(self, data: bytes) -> None:
        self._bits = "".join(f"{byte:08b}" for byte in data)
        self._at = 0

    def read(self, count: int) -> int:
        """The next bits as a number; ValueError behind the last."""
        part = self._bits[self._at : self._at + count]
        self._at += count
        return int(part, 2) if count else 0


def time_bits(header: bytes) -> int | None:
    """How many bits tell the time of a picture, by the stream's header (6.2.3); None if there is none."""
    for at in _starts(header):
        if header[at + 3] in _VOL:
            try:
                return _time_bits(_Bits(header[at + 4 : at + 40]))
            except ValueError:
                return None
    return None


def _time_bits(bits: _Bits) -> int:
    bits.read(1 + 8)  # random_accessible_vol, video_object_type_indication
    if bits.read(1):
        bits.read(4 + 3)  # version and priority
    if bits.read(4) == 15:
        bits.read(16)  # extended pixel aspect
    if bits.read(1):
        bits.read(2 + 1)  # chroma format, low delay
        if bits.read(1):
            bits.read(79)  # of the buffer
    bits.read(2 + 1)  # shape, marker
    return max(1, (bits.read(16) - 1).bit_length())


def is_skipped(packet: bytes, bits_of_time: int) -> bool:
    """Whether the only picture of a packet is marked as not coded (6.2.5, vop_coded)."""
    at = packet.find(_VOP)
    if at < 0 or packet.find(_VOP, at + 1) >= 0:
        return False
    bits = _Bits(packet[at + 4 :])
    try:
        bits.read(2)
        while bits.read(1):
            pass
        bits.read(1 + bits_of_time + 1)
        return bits.read(1) == 0
    except ValueError:
        return False


def _starts(data: bytes) -> Iterator[int]:
    """Places of start codes."""
    at = data.find(b"\0\0\1")
    while 0 <= at < len(data) - 3:
        yield at
        at = data.find(b"\0\0\1", at + 1)
