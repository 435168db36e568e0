"""Accepted media formats, limits for decoders, and the error for one unusable file."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, Self, TypedDict, TypeVar

from core.config.settings import setting
from core.files import regular
from core.progress import counted
from core.reading.json_scalars import U8, U32
from data.media.unread_kinds import COPY, RAW_STREAM, unread_kind

# Canonical suffix -> Pillow's (images) or FFmpeg's (videos) name of the format; HEIF is read by pillow-heif.
IMAGE_FORMATS = {
    "jpg": "JPEG",
    "png": "PNG",
    "webp": "WEBP",
    "gif": "GIF",
    "bmp": "BMP",
    "tif": "TIFF",
    "avif": "AVIF",
    "heic": "HEIF",
}
VIDEO_FORMATS = {"mp4": "mp4", "mkv": "matroska", "avi": "avi"}
ACCEPTED = "JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF, HEIF, MP4, QuickTime, Matroska, WebM or AVI"
# Names under which media are looked for; what a file is follows from its content (`suffix_of`).
STILL_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".gif", ".bmp", ".dib"),
    *(".tif", ".tiff", ".avif", ".avifs", ".heic", ".heif", ".heics", ".heifs", ".hif"),
)
FILM_SUFFIXES = (".mp4", ".m4v", ".mov", ".qt", ".f4v", ".mkv", ".mk3d", ".webm", ".avi", ".3gp", ".3g2")
READ_SUFFIXES = (*STILL_SUFFIXES, *FILM_SUFFIXES)
MEDIA_SUFFIXES = (
    *READ_SUFFIXES,
    # Found so that they are refused by name, one by one.
    *(".jxl", ".jp2", ".j2k", ".ts", ".m2ts", ".mts", ".mpg", ".mpeg", ".vob", ".flv", ".wmv", ".ogv"),
)
T = TypeVar("T")

PNG = b"\x89PNG\r\n\x1a\n"  # how such files begin
HEAD = 1024  # bytes by which `suffix_of` tells what a file is
_ARTICLES = dict.fromkeys(("Ap", "IV", "MN", "MP", "MX", "Og", "Op", "SV", "XM"), "an")
_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")
_AVIF = {b"avif", b"avis"}
_HEIF = {b"heic", b"heix", b"heim", b"heis", b"mif1", b"mif2", b"miaf", b"avci", b"jpeg", b"vvic"}
_HEIF_SEQUENCE = {b"hevc", b"hevx", b"hevm", b"hevs", b"msf1", b"avcs", b"vvis"}


# Lengths of what follows a BMP's first header; its reserved field, ahead of these, need not be 0.
_BITMAP_HEADERS = {struct.pack("<I", length) for length in (12, 16, 40, 52, 56, 64, 108, 124)}


class MediaError(ValueError):
    """Raised for one file that cannot be used; the text is a one-line reason."""


def truncated(missing: int) -> MediaError:
    """Return the error of a video that lacks so many of the bytes that it declares."""
    are = "is" if missing == 1 else "are"
    return MediaError(f"truncated video: {counted(missing, 'byte')} that it declares {are} not there")


@dataclass(frozen=True, kw_only=True)
class MediaLimits:
    """Limits of decoders; anything larger is refused before it is decoded."""

    pixels: int = setting(
        64_000_000, "largest width x height of a picture", unit="pixels", low=1, high=89_000_000
    )
    frames: int = setting(100_000, "most frames of a video", unit="frames", low=1)
    seconds: float = setting(7200.0, "longest video", unit="s", low=0.0)
    bytes: int = setting(
        2**31, "largest file, and largest decoded clip", unit="bytes", low=1, high=2**32 - 2**20
    )

    def check_picture(self, width: int, height: int) -> None:
        """Raise MediaError if a picture of this size must not be decoded."""
        if width < 1 or height < 1 or width * height > self.pixels:
            raise MediaError(f"claims {width}x{height} pixels, the limit is {self.pixels} in all")

    def check_bytes(self, size: int, what: str = "file") -> None:
        """Raise MediaError if a file (or decoded clip) of this size must not be read."""
        if size > self.bytes:
            raise MediaError(f"{what} of {size} bytes, the limit is {self.bytes}")


class MediaRecord(TypedDict):
    """A `Media` as JSON; rate and duration are fractions such as `30000/1001`."""

    width: U32
    height: U32
    frames: U32
    fps: float
    rate: str
    duration: str
    fields: U8
    found: dict[str, str]


class Media(NamedTuple):
    """The facts of a media file, as displayed.

    frames: 1 for an image.  fps: frames a second as a float, 0 for an image.  rate: the same exactly, the
    mean where frames are not evenly spaced.  duration: in seconds, measured; 0 for an image.
    fields: how frames are interlaced, one of `data.media.film.interlacing.Fields`.
    found: what else the file says of itself and what is done about it, {property: value}; for the sample's
    JSON and for counts. docs/media.md lists the properties.
    """

    width: int
    height: int
    frames: int
    fps: float
    rate: Fraction = Fraction(0)
    duration: Fraction = Fraction(0)
    fields: int = 0
    found: Mapping[str, str] = MappingProxyType({})

    @property
    def seconds(self) -> float:
        """Duration in seconds; 0 for an image."""
        return float(self.duration) if self.duration else self.frames / self.fps if self.fps else 0.0

    def described(self) -> dict[str, Any]:
        """Return the entries for a sample's JSON.

        Exact rate and duration only of videos, `found` if there is any.
        """
        values = self.to_json()
        absent = (
            {"fields"} | (set() if self.rate else {"rate", "duration"}) | (set() if self.found else {"found"})
        )
        return {name: value for name, value in values.items() if name not in absent}

    def to_json(self) -> dict[str, Any]:
        """Return all values as JSON; fractions as `30000/1001`."""
        fractions = {"rate": str(self.rate), "duration": str(self.duration)}
        return {**self._asdict(), **fractions, "found": dict(self.found)}

    @classmethod
    def from_json(cls, values: MediaRecord) -> Self:
        """Create from what `to_json` returned; ValueError if a fraction is none."""
        try:
            rate, duration = Fraction(values["rate"]), Fraction(values["duration"])
        except ZeroDivisionError:
            raise ValueError("a fraction has the denominator 0") from None
        return cls(
            *(values["width"], values["height"], values["frames"], values["fps"]),
            *(rate, duration, values["fields"], values["found"]),
        )


DEFAULT_LIMITS = MediaLimits()


def media_names(names: Iterable[str]) -> list[str]:
    """Return the suffixes (`jpg`, `rgb.png`) of those of a sample's members that are images or videos."""
    return [name for name in names if "." + name.rpartition(".")[2] in MEDIA_SUFFIXES]


def media_member(members: Mapping[str, T]) -> T:
    """Return the image or video of a sample, whatever its bucket; MediaError unless it has exactly one.

    members: by suffix, as `data.dataset.tars.split_name` gives it. All jobs ask here, so that what `shard`
    packed is what training, evaluation and contact sheets see.
    """
    found = media_names(members)
    if len(found) == 1:
        return members[found[0]]
    if found:
        raise MediaError(f"has {len(found)} images or videos ({', '.join(found)}), expected 1")
    raise MediaError(f"has no picture or video among {', '.join(members) or 'its 0 members'}")


def suffix_of(head: bytes) -> str:
    """Return the canonical suffix of a file by its first `HEAD` bytes (more do no harm).

    It is one of IMAGE_FORMATS or VIDEO_FORMATS. MediaError names what else the file is.
    """
    if head.startswith(b"\xff\xd8\xff"):
        return "jpg"
    if head.startswith(PNG):
        return "png"
    if head.startswith(b"RIFF") and head[8:12] in (b"WEBP", b"AVI "):
        return "webp" if head[8:12] == b"WEBP" else "avi"
    if head.startswith((b"GIF87a", b"GIF89a")):
        return "gif"
    if head.startswith(b"BM") and (head[6:10] == b"\0\0\0\0" or head[14:18] in _BITMAP_HEADERS):
        return "bmp"
    starts_with_a_box = head.startswith(b"\0\0\1") and head[4:8] in _BOXES  # as long as a mark of others
    if not starts_with_a_box and (unread := unread_kind(head)):
        name, way = unread
        raise MediaError(f"is {_ARTICLES.get(name[:2], 'a')} {name} file, not a {ACCEPTED} file: {way}")
    if head.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
        return "tif"
    if head[4:8] == b"ftyp":
        return _suffix_of_brands(head)
    if head[4:8] in _BOXES:
        return "mp4"
    if head.startswith(b"\x1a\x45\xdf\xa3"):
        return "mkv"
    if head.startswith(b"\0\0\0\x01"):  # a large box of MP4 begins so too, and was met above
        raise MediaError(f"is a raw H.264 or HEVC stream, not a {ACCEPTED} file: {RAW_STREAM}")
    raise MediaError("empty file" if not head else f"not a {ACCEPTED} file")


def _suffix_of_brands(head: bytes) -> str:
    """Return avif, heic or mp4 by the brands of a file's first box (ISO/IEC 14496-12, 4.3; 23008-12, 10)."""
    size = int.from_bytes(head[:4], "big")
    major = head[8:12]
    brands = {major, *(head[at : at + 4] for at in range(16, min(size, len(head)) - 3, 4))}
    if major in _AVIF | _HEIF | _HEIF_SEQUENCE and brands & _AVIF:
        return "avif"
    if major in _HEIF_SEQUENCE:
        raise MediaError(f"is a HEIF image sequence (brand {major.decode()}), not a {ACCEPTED} file: {COPY}")
    return "heic" if major in _HEIF else "mp4"


def read_media(source: bytes | Path, limits: MediaLimits) -> bytes:
    """Read the bytes of a file within the limits."""
    if isinstance(source, bytes):
        limits.check_bytes(len(source))
        return source
    with open(source, "rb", opener=regular) as file:
        data = file.read(limits.bytes + 1)
    limits.check_bytes(len(data))
    return data
