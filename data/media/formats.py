"""What media files may be: accepted formats, limits for decoders, the error for one unusable file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeVar

from core.config.settings import setting
from core.files import regular

IMAGE_FORMATS = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP"}
VIDEO_FORMATS = {"mp4": "mp4", "mkv": "matroska", "avi": "avi"}
# Names under which media are looked for; what a file is follows from its content (`suffix_of`).
MEDIA_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi")
T = TypeVar("T")

_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")


class MediaError(ValueError):
    """This one file cannot be used; the text is a one-line reason."""


@dataclass(frozen=True, kw_only=True)
class MediaLimits:
    """What decoders accept; anything larger is refused before it is decoded."""

    pixels: int = setting(
        64_000_000, "largest width x height of a picture", unit="pixels", low=1, high=89_000_000
    )
    frames: int = setting(100_000, "most frames of a video", unit="frames", low=1)
    seconds: float = setting(7200.0, "longest video", unit="s", low=0.0)
    bytes: int = setting(
        2**31, "largest file, and largest decoded clip", unit="bytes", low=1, high=2**32 - 2**20
    )

    def check_picture(self, width: int, height: int) -> None:
        """MediaError if a picture of this size is not to be decoded."""
        if width < 1 or height < 1 or width * height > self.pixels:
            raise MediaError(f"claims {width}x{height} pixels, the limit is {self.pixels} in all")

    def check_bytes(self, size: int, what: str = "file") -> None:
        """MediaError if a file (or decoded clip) of this size is not to be read."""
        if size > self.bytes:
            raise MediaError(f"{what} of {size} bytes, the limit is {self.bytes}")


class Media(NamedTuple):
    """What a file shows, as displayed. frames: 1 for an image. fps: mean frames a second, 0 for an image."""

    width: int
    height: int
    frames: int
    fps: float


DEFAULT_LIMITS = MediaLimits()


def media_names(names: Iterable[str]) -> list[str]:
    """Those of a sample's members, by suffix (`jpg`, `rgb.png`), that are images or videos."""
    return [name for name in names if "." + name.rpartition(".")[2] in MEDIA_SUFFIXES]


def media_member(members: Mapping[str, T]) -> T:
    """The image or video of a sample, whatever bucket the sample is in; MediaError unless it has exactly one.

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
    """The canonical suffix (jpg, png, webp, mp4, mkv, avi) by a file's first 16 bytes; MediaError if none."""
    if head.startswith(b"\xff\xd8\xff"):
        return "jpg"
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if head.startswith(b"RIFF") and head[8:12] in (b"WEBP", b"AVI "):
        return "webp" if head[8:12] == b"WEBP" else "avi"
    if head[4:8] in _BOXES:
        return "mp4"
    if head.startswith(b"\x1a\x45\xdf\xa3"):
        return "mkv"
    raise MediaError(
        "empty file" if not head else "not a JPEG, PNG, WebP, MP4, QuickTime, Matroska, WebM or AVI file"
    )


def read_media(source: bytes | Path, limits: MediaLimits) -> bytes:
    """The bytes of a file within the limits."""
    if isinstance(source, bytes):
        limits.check_bytes(len(source))
        return source
    with open(source, "rb", opener=regular) as file:
        data = file.read(limits.bytes + 1)
    limits.check_bytes(len(data))
    return data
