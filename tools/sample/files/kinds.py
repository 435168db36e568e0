"""The kinds of files that samples are written to, a file each; `npz`, one file of all, is none of these."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from core.errors import UserError
from data.media.film.codecs import CODECS, encode_film
from data.media.formats import MediaError
from data.media.images import encode_lossy, encode_png

FileKind = Literal["npz", "png", "webp", "jpeg", "h264", "hevc", "av1", "ffv1"]
ALL_IN_ONE = "npz"
Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    holds: an image, (H, W, 3), or a clip, (T, H, W, 3).  quality: accepted values, None where there is no
    choice.  usual: that of None.  lossless: whether pixels are read back as they were.  encode: pixels,
    frames per second, quality or None for the usual one, to bytes; equal input gives equal bytes.
    """

    suffix: str
    holds: Literal["image", "clip"]
    quality: tuple[int, int] | None
    usual: int | None
    lossless: bool
    encode: Callable[[Pixels, float, int | None], bytes]


def _lossy(suffix: str, format: Literal["JPEG", "WEBP"], usual: int) -> Kind:
    def encode(pixels: Pixels, fps: float, quality: int | None) -> bytes:
        return encode_lossy(pixels, format, usual if quality is None else quality)

    return Kind(suffix, "image", (1, 100), usual, False, encode)


def _by_codec(name: str) -> Kind:
    codec = CODECS[name]

    def encode(pixels: Pixels, fps: float, quality: int | None) -> bytes:
        return encode_film(pixels, fps, name, quality)

    levels = None if codec.lossless else (0, codec.worst)
    return Kind(codec.suffix, "clip", levels, codec.crf, codec.lossless, encode)


KINDS: Mapping[str, Kind] = {
    "png": Kind(".png", "image", None, None, True, lambda pixels, fps, quality: encode_png(pixels)),
    "webp": _lossy(".webp", "WEBP", 90),
    "jpeg": _lossy(".jpg", "JPEG", 95),
    **{name: _by_codec(name) for name in CODECS},
}


def require_encodable(kind: FileKind, quality: int | None, height: int, width: int) -> None:
    """Refuse a kind of film whose encoder does not take frames of this size, which one frame tells."""
    if kind == ALL_IN_ONE or KINDS[kind].holds == "image":
        return
    try:
        KINDS[kind].encode(np.zeros((1, height, width, 3), np.uint8), 12.0, quality)
    except MediaError as error:
        others = ", ".join(name for name in CODECS if name != kind)
        raise UserError("kind", kind, f"{others} or npz for {height} x {width} pixels: {error}") from None


def require_fitting(kind: str, quality: int | None, frames: int) -> None:
    """Refuse a kind that cannot hold samples of so many frames, or a quality that it does not take.

    UserError names fields of the section `files`.
    """
    found = KINDS[kind]
    if (found.holds == "image") != (frames == 1):
        holding = "image" if frames == 1 else "clip"
        names = ", ".join(name for name, other in KINDS.items() if other.holds == holding)
        raise UserError("kind", kind, f"one for {'images' if frames == 1 else 'clips'}: {names}, or npz")
    if quality is None:
        return
    if found.quality is None:
        raise UserError("quality", quality, f"null for {kind}, which loses nothing")
    low, high = found.quality
    if not low <= quality <= high:
        raise UserError("quality", quality, f"{low} to {high} for {kind}")
