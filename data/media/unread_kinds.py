"""Kinds of files that are known by how they begin, and not read."""

from __future__ import annotations

COPY = "ffmpeg -i FILE -c copy FILE.mkv makes one that is"
RAW_STREAM = "ffmpeg -i FILE -c:v libx264 -crf 12 FILE.mp4 makes one that is"  # a copy has no times
LFS = b"version https://git-lfs"
_PICTURE = "save it as PNG or JPEG"
# How files begin that are known and not read: (offset, bytes), what they are, what may be done.
_UNREAD = (
    (0, b"\xff\x0a", "JPEG XL", _PICTURE),
    (4, b"JXL \r\n\x87\n", "JPEG XL", _PICTURE),
    (4, b"jP  \r\n\x87\n", "JPEG 2000", _PICTURE),
    (0, b"\xff\x4f\xff\x51", "JPEG 2000", _PICTURE),
    (0, b"8BPS", "Photoshop", _PICTURE),
    (0, b"\x76\x2f\x31\x01", "OpenEXR", _PICTURE),
    (0, b"#?RADIANCE", "Radiance HDR", _PICTURE),
    (0, b"FUJIFILMCCD-RAW", "raw photograph", "develop it to PNG or JPEG"),
    (0, b"IIRO", "raw photograph", "develop it to PNG or JPEG"),
    (0, b"IIU\0", "raw photograph", "develop it to PNG or JPEG"),
    (8, b"CR\x02\0", "raw photograph", "develop it to PNG or JPEG"),
    (8, b"crx ", "raw photograph", "develop it to PNG or JPEG"),
    (0, b"\0\0\x01\xba", "MPEG program stream", COPY),
    (0, b"\0\0\x01\xb3", "MPEG video stream", RAW_STREAM),
    (0, b"FLV\x01", "Flash video", COPY),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "Windows Media", COPY),
    (0, b"\x06\x0e\x2b\x34\x02\x05\x01\x01", "MXF", COPY),
    (0, b".RMF", "RealMedia", RAW_STREAM),
    (0, b"nut/multimedia container\0", "NUT", COPY),
    (0, b"YUV4MPEG2", "YUV4MPEG", RAW_STREAM),
    (0, b"DKIF", "IVF", COPY),
    (0, b"\x12\x00\x0a", "raw AV1 stream", COPY),
    (0, b"\0\0\x01\xb0", "MPEG-4 video stream", RAW_STREAM),
    (0, b"\0\0\x01\xb5", "MPEG-4 video stream", RAW_STREAM),
    (0, b"\x1f\x07\x00", "raw DV stream", RAW_STREAM),
    (0, b"\xb7\xd8\x00\x20\x37\x49\xda\x11", "WTV", COPY),
    (0, b"OggS", "Ogg", COPY),
    (0, LFS, "Git LFS pointer", "git lfs pull fetches what it stands for"),
    (0, b"<!DOCTYPE", "web page", "it was fetched instead of the file"),
    (0, b"<!doctype", "web page", "it was fetched instead of the file"),
    (0, b"<html", "web page", "it was fetched instead of the file"),
    (0, b"<svg", "SVG", _PICTURE),
    (0, b"<?xml", "XML or SVG", _PICTURE),
    (0, b"%PDF", "PDF", _PICTURE),
    (0, b"II\xbc\x01", "JPEG XR", _PICTURE),
    (0, b"\x8aMNG\r\n\x1a\n", "MNG", _PICTURE),
    (0, b"\x8bJNG\r\n\x1a\n", "JNG", _PICTURE),
    (0, b"icns", "Apple icon", _PICTURE),
    (0, b"\0\0\1\0", "Windows icon", _PICTURE),
    (0, b"BPG\xfb", "BPG", _PICTURE),
    (0, b"FLIF", "FLIF", _PICTURE),
    (0, b"SIMPLE  =", "FITS", _PICTURE),
    (0, b"farbfeld", "farbfeld", _PICTURE),
    *((0, b"P%d%c" % (n, end), "portable pixel map", _PICTURE) for n in range(1, 8) for end in b"\n \t"),
    *((0, b"P%c%c" % (n, end), "portable float map", _PICTURE) for n in b"Ff" for end in b"\n \t"),
    (0, b"qoif", "QOI", _PICTURE),
    (0, b"DDS ", "DDS", _PICTURE),
    (0, b"gimp xcf", "GIMP", _PICTURE),
    (128, b"DICM", "DICOM", _PICTURE),
    (0, b"PK\3\4", "zip archive", "unpack it"),
    (0, b"\x1f\x8b", "gzip", "unpack it"),
)

MARKED = 64  # bytes by which `mistaken_for` tells
# How files begin that are called as tars, tables or texts are and are none, in small letters.
_MISTAKEN = {
    LFS: "a Git LFS pointer (git lfs pull fetches what it stands for)",
    b"<!doctype html": "a web page (it was fetched instead of the file)",
    b"<html": "a web page (it was fetched instead of the file)",
    b"pk\3\4": "a zip archive (unpack it, or save a spreadsheet as CSV)",
    b"{\\rtf": "a document in RTF (save it as plain text)",
    b"%pdf": "a PDF (save it as plain text)",
}


def mistaken_for(head: bytes) -> str:
    """Say that a file that is called as a tar, table or text is begins as something else, "" if not."""
    head = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    return next((what for mark, what in _MISTAKEN.items() if head.startswith(mark)), "")


def unread_kind(head: bytes) -> tuple[str, str] | None:
    """Return the name of the kind and what may be done; None for files of other kinds."""
    for offset, mark, name, way in _UNREAD:
        if head.startswith(mark, offset):
            return name, way
    for first, packet in ((0, 188), (4, 192)):  # with a time before each packet, as cameras write
        if len(head) > 2 * packet + first and all(head[first + k * packet] == 0x47 for k in range(3)):
            return "MPEG-TS", COPY
    return None
