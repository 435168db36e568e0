"""Images and video: probe, decode under limits, resize, encode. The only reader of foreign media bytes.

What a file is follows from its first bytes, never from its name, and the decoder is told which one format to
expect; so a playlist or script called `x.mp4` cannot make it open other files.
"""

from __future__ import annotations

import contextlib
import io
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from einops import rearrange

from data.media.formats import (
    DEFAULT_LIMITS,
    IMAGE_FORMATS,
    VIDEO_FORMATS,
    Media,
    read_media,
    suffix_of,
)
from data.media.formats import MediaError as MediaError
from data.media.formats import MediaLimits as MediaLimits
from data.media.scaling import covering_box, displayed_size
from data.media.video import decode_video as decode_video
from data.media.video import encode_mp4 as encode_mp4
from data.media.video_file import opened_video

if TYPE_CHECKING:
    from torch import Tensor

SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations that swap width and height
_PILLOW_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    LookupError,
    TypeError,
    struct.error,
    zlib.error,
)


def probe(source: bytes | Path, limits: MediaLimits = DEFAULT_LIMITS) -> Media:
    """Size, frames and rate as displayed; decodes at most one frame. MediaError if it is no usable media."""
    data = read_media(source, limits)
    if suffix_of(data) in IMAGE_FORMATS:
        with _opened_image(data, limits) as image:
            turned = _orientation(image) in SIDEWAYS
            width, height = image.size[::-1] if turned else image.size
        return Media(width, height, 1, 0.0)
    with opened_video(data, limits) as video:
        for _, frame in video.pictures():
            height, width = displayed_size(frame)
            return Media(width, height, video.frames, video.fps)
    raise MediaError("damaged video: no frame can be decoded")


def check(source: bytes | Path, limits: MediaLimits = DEFAULT_LIMITS) -> Media:
    """What `probe` says, after every pixel of every frame was decoded: what passes is whole."""
    data = read_media(source, limits)
    if suffix_of(data) in IMAGE_FORMATS:
        height, width, _ = decode_image(data, limits).shape
        return Media(width, height, 1, 0.0)
    with opened_video(data, limits) as video:
        decoded, sizes = 0, set()
        for number, frame in video.pictures():
            if frame.is_corrupt:
                raise MediaError(f"damaged video: frame {number} of {video.frames}")
            decoded += 1
            sizes.add(displayed_size(frame))
        if decoded != video.frames or len(sizes) != 1:
            raise MediaError(f"damaged video: {decoded} of {video.frames} frames, in {len(sizes)} sizes")
        height, width = sizes.pop()
        return Media(width, height, video.frames, video.fps)


def decode_media(
    data: bytes,
    limits: MediaLimits = DEFAULT_LIMITS,
    frames: tuple[int, int, int] = (0, 1, 1),
    fps: float | None = None,
    size: tuple[int, int] | None = None,
) -> np.ndarray:
    """uint8 (T, H, W, 3): the chosen frames of a video, or an image as its only frame, brought to `size`.

    Arguments as of `decode_video`; the content says which of the two it is. So a video of one frame is read
    as an image is, which is how it is put into a bucket (`data.order.buckets.is_image`).
    """
    if suffix_of(data) not in IMAGE_FORMATS:
        return decode_video(data, limits, frames, fps, size)
    start, count, _ = frames
    if start + count > 1:
        raise MediaError(f"is an image, {start + count} frames are needed")
    picture = decode_image(data, limits)[None]
    return resize_crop(picture, *size) if size else picture


def decode_image(data: bytes, limits: MediaLimits = DEFAULT_LIMITS) -> np.ndarray:
    """uint8 (H, W, 3), turned as EXIF says; of an animation the first picture.

    Transparency is laid over white; 16-bit grey is scaled to 8 bits; all else converts to RGB.
    The claimed size is checked before any pixel is decoded; a truncated file is a MediaError.
    """
    from PIL import Image

    with _opened_image(data, limits) as image:
        image.load()
        orientation = _orientation(image)
        if image.mode.startswith("I"):
            grey = np.asarray(image).astype(np.int64).clip(0, 65535)
            image = Image.fromarray(((grey + 128) // 257).astype(np.uint8))
        elif image.has_transparency_data:
            front = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", front.size, "white"), front)
        picture = np.asarray(image.convert("RGB"))
    if orientation in SIDEWAYS:
        picture = picture.transpose(1, 0, 2)
    vertical, horizontal = orientation in (3, 4, 7, 8), orientation in (2, 3, 6, 7)
    return np.ascontiguousarray(picture[:: -1 if vertical else 1, :: -1 if horizontal else 1])


def _orientation(image: Any) -> int:
    return image.getexif().get(0x0112, 1)


@contextlib.contextmanager
def _opened_image(data: bytes, limits: MediaLimits) -> Iterator[Any]:
    from PIL import Image, UnidentifiedImageError

    limits.check_bytes(len(data))
    if (suffix := suffix_of(data)) in VIDEO_FORMATS:
        raise MediaError("is a video, not an image")
    format = IMAGE_FORMATS[suffix]
    try:
        with Image.open(io.BytesIO(data), formats=[format]) as image:
            limits.check_picture(*image.size)
            yield image
    except Image.DecompressionBombError as error:
        raise MediaError(f"claims too many pixels ({error})") from None
    except MediaError:
        raise
    except UnidentifiedImageError:  # its text holds an address in memory
        raise MediaError(f"damaged image: header is not that of a {format} file") from None
    except _PILLOW_ERRORS as error:
        raise MediaError(f"damaged image: {error or type(error).__name__}") from None


def resize_crop(
    pixels: np.ndarray,
    height: int,
    width: int,
    position: tuple[float, float] = (0.5, 0.5),
    flip: bool = False,
) -> np.ndarray:
    """uint8 (H, W, 3) or (T, H, W, 3), resized (antialiased bicubic) to cover height x width, then cropped.

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
    """uint8 (H, W, 3) or (H, W) -> the bytes of a PNG file."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def to_tensor(pixels: np.ndarray) -> Tensor:
    """uint8 (..., T, H, W, C) -> float32 (..., C, T, H, W) in [-1, 1]: `pixels / 127.5 - 1`."""
    import torch

    moved = rearrange(torch.from_numpy(np.ascontiguousarray(pixels)), "... t h w c -> ... c t h w")
    return moved.to(torch.float32).div_(127.5).sub_(1)


def from_tensor(x: Tensor) -> np.ndarray:
    """float (..., C, T, H, W) in [-1, 1] -> uint8 (..., T, H, W, C): `clamp(round(127.5 x + 127.5), 0, 255)`.

    The one rule by which pictures become bytes; undoes `to_tensor` exactly.
    """
    import torch

    pixels = x.detach().to(torch.float32).mul(127.5).add(127.5).round().clamp(0, 255).to(torch.uint8)
    return rearrange(pixels, "... c t h w -> ... t h w c").contiguous().cpu().numpy()
