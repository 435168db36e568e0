"""Images and video: probe, decode under limits, resize, encode. The only reader of foreign media bytes.

The format of a file follows from its first bytes, never from its name, and the decoder is told which one
format to expect; so a playlist or script called `x.mp4` cannot make it open other files.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from einops import rearrange

from data.media.colour import ColourMode
from data.media.film.interlacing import Fields
from data.media.film.measuring import check_video, probe_video
from data.media.formats import (
    DEFAULT_LIMITS,
    IMAGE_FORMATS,
    Media,
    read_media,
    suffix_of,
)
from data.media.formats import MediaError as MediaError
from data.media.formats import MediaLimits as MediaLimits
from data.media.scaling import covering_box
from data.media.stills.animation import decode_animation
from data.media.stills.facts import probe_still
from data.media.stills.rendering import read_still
from data.media.stills.still import opened_still
from data.media.video import decode_video as decode_video
from data.media.video import encode_mp4 as encode_mp4

if TYPE_CHECKING:
    from torch import Tensor


def probe(
    source: bytes | Path,
    limits: MediaLimits = DEFAULT_LIMITS,
    fields: bool = False,
    colour: ColourMode = "convert",
) -> Media:
    """Return size, frames and rate as displayed.

    Decodes at most one frame. MediaError if it is no usable media.

    fields: decode what it takes to see whether a video is interlaced, too.
    colour: what is to be done about colours that are not those of training.
    """
    data = read_media(source, limits)
    if suffix_of(data) in IMAGE_FORMATS:
        return probe_still(data, limits, colour, whole=False)
    return probe_video(data, limits, fields, colour)


def check(
    source: bytes | Path, limits: MediaLimits = DEFAULT_LIMITS, colour: ColourMode = "convert"
) -> Media:
    """Return what `probe` says, after decoding every pixel of every frame: a file that passes is whole."""
    data = read_media(source, limits)
    if suffix_of(data) in IMAGE_FORMATS:
        return probe_still(data, limits, colour, whole=True)
    return check_video(data, limits, colour)


def decode_media(
    data: bytes,
    limits: MediaLimits = DEFAULT_LIMITS,
    frames: tuple[int, int, int] = (0, 1, 1),
    fps: float | None = None,
    size: tuple[int, int] | None = None,
    fields: Fields = Fields.WHOLE,
    colour: ColourMode = "convert",
) -> np.ndarray:
    """Decode the chosen frames of a video, or an image as its only frame, to `size`: uint8 (T, H, W, 3).

    Arguments as of `decode_video`; the content says which of the two it is, and an animated picture is a
    video. A video of one frame is read as an image is, which is how it is put into a bucket
    (`data.order.buckets.is_image`).
    """
    if suffix_of(data) not in IMAGE_FORMATS:
        return decode_video(data, limits, frames, fps, size, fields=fields, colour=colour)
    with opened_still(data, limits) as still:
        if still.frames > 1:
            pixels = decode_animation(still, limits, frames, fps, colour)
        elif frames[0] + frames[1] > 1:
            raise MediaError(f"is an image, {frames[0] + frames[1]} frames are needed")
        else:
            pixels = read_still(still, colour)[None]
    return resize_crop(pixels, *size) if size else pixels


def decode_image(
    data: bytes, limits: MediaLimits = DEFAULT_LIMITS, colour: ColourMode = "convert"
) -> np.ndarray:
    """Decode an image (of an animation the first picture) as displayed, over white, in sRGB: uint8 (H, W, 3).

    The claimed size is checked before any pixel is decoded; a truncated file is a MediaError.
    """
    with opened_still(data, limits) as still:
        return read_still(still, colour)


def resize_crop(
    pixels: np.ndarray,
    height: int,
    width: int,
    position: tuple[float, float] = (0.5, 0.5),
    flip: bool = False,
) -> np.ndarray:
    """Resize uint8 (H, W, 3) or (T, H, W, 3) to cover height x width (antialiased bicubic), then crop.

    position: where in the surplus the crop lies, (vertical, horizontal) in [0, 1]; (0.5, 0.5) is the centre.
    flip: mirror left to right.
    """
    from PIL import Image

    if pixels.ndim == 4:
        return np.stack([resize_crop(frame, height, width, position, flip) for frame in pixels])
    box = covering_box((pixels.shape[0], pixels.shape[1]), (height, width), position)
    resized = np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC, box=box))
    return np.ascontiguousarray(resized[:, ::-1] if flip else resized)


def encode_png(pixels: np.ndarray) -> bytes:
    """Encode uint8 (H, W, 3) or (H, W) as the bytes of a PNG file."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def encode_lossy(pixels: np.ndarray, format: Literal["JPEG", "WEBP"], quality: int) -> bytes:
    """Encode uint8 (H, W, 3) as JPEG without subsampled colour, or as WebP.  quality: 1 to 100."""
    from PIL import Image

    file = io.BytesIO()
    options = {"subsampling": 0} if format == "JPEG" else {"method": 4}
    Image.fromarray(pixels).save(file, format, quality=quality, **options)
    return file.getvalue()


def to_tensor(pixels: np.ndarray) -> Tensor:
    """Convert uint8 (..., T, H, W, C) to float32 (..., C, T, H, W) in [-1, 1]: `pixels / 127.5 - 1`."""
    import torch

    return as_tensor(pixels).to(torch.float32).div_(127.5).sub_(1)


def as_tensor(pixels: np.ndarray) -> Tensor:
    """Convert uint8 (..., T, H, W, C) to uint8 (..., C, T, H, W), a quarter of the bytes of `to_tensor`."""
    import torch

    own = np.require(pixels, requirements=["C", "W"])  # torch warns of arrays that may not be written
    return rearrange(torch.from_numpy(own), "... t h w c -> ... c t h w")


def from_tensor(x: Tensor) -> np.ndarray:
    """Convert float (..., C, T, H, W) in [-1, 1] to uint8 (..., T, H, W, C): `clamp(round(127.5 x + 127.5),
    0, 255)`.

    The one rule by which pictures become bytes; undoes `to_tensor` exactly.
    """
    import torch

    pixels = x.detach().to(torch.float32).mul(127.5).add(127.5).round().clamp(0, 255).to(torch.uint8)
    return rearrange(pixels, "... c t h w -> ... t h w c").contiguous().cpu().numpy()
