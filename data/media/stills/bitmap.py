"""Read the colours that a BMP declares; Pillow reads its pixels alone.

Fields are those of BITMAPV4HEADER and BITMAPV5HEADER (Windows GDI).
"""

from __future__ import annotations

_HEADER, _COLOURS, _PROFILE = 14, 14 + 56, 14 + 112  # offsets in the file
_EMBEDDED, _LINKED = b"DEBM", b"KNIL"  # MBED and LINK, as little-endian numbers
_CALIBRATED = bytes(4)  # primaries and gammas stand in the header


def read_bitmap(data: bytes) -> tuple[bytes, tuple[str, ...]]:
    """Return (ICC profile or b"", what is passed over in words)."""
    length = int.from_bytes(data[_HEADER : _HEADER + 4], "little")
    kind = data[_COLOURS : _COLOURS + 4]
    if length < 108:
        return b"", ()
    if kind == _CALIBRATED and any(data[_COLOURS + 4 : _COLOURS + 40]):
        return b"", ("calibrated colours of a BMP",)
    if length < 124 or kind not in (_EMBEDDED, _LINKED):
        return b"", ()
    start, size = (int.from_bytes(data[at : at + 4], "little") for at in (_PROFILE, _PROFILE + 4))
    profile = data[_HEADER + start : _HEADER + start + size] if kind == _EMBEDDED else b""
    return (profile, ()) if profile else (b"", ("ICC profile that is not in the file",))
