"""Read what Pillow cuts off through PyAV: more than 8 bits of PNG, TIFF and AVIF, parts of milliseconds."""

from __future__ import annotations

import io
from fractions import Fraction
from typing import Any

import numpy as np

from data.media.film.looks import look_of, planes_of
from data.media.formats import MediaError
from data.media.scaling import sharp_filter

_DEMUXERS = {"png": "png_pipe", "tif": "tiff_pipe", "avif": "mov"}
_CHANNELS = {"gray12": 1, "gray16": 1, "ya16": 2, "rgb48": 3, "rgba64": 4}
_IN_PLANES = {"gbrp16": (2, 0, 1)}  # planes of red, green and blue


def read_codes(data: bytes, suffix: str, size: tuple[int, int]) -> np.ndarray | None:
    """Read uint16 (H, W, C), full range, C being grey, grey and alpha, RGB or RGB and alpha.

    size: (width, height) that the picture has. None where FFmpeg does not read it, or not as a whole (AVIF of
    tiles). MediaError if it is damaged.
    """
    import av

    try:
        with av.open(io.BytesIO(data), format=_DEMUXERS[suffix]) as container:
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1
            frame: Any = next(container.decode(stream))  # type: ignore[union-attr]
            if (frame.width, frame.height) != size:
                return None
            if suffix == "avif":
                return _from_planes(frame)
            return _from_packed(frame)
    except (av.error.PatchWelcomeError, av.error.DecoderNotFoundError, IndexError):
        return None
    except (av.FFmpegError, StopIteration) as error:
        raise MediaError(f"damaged image: {getattr(error, 'strerror', 'no picture')}") from None


def delays_of_avif(data: bytes, count: int) -> list[Fraction] | None:
    """Return how long each of `count` pictures of an animated AVIF is shown, in ms; None where unsaid."""
    import av

    try:
        with av.open(io.BytesIO(data), format="mov") as container:
            stream = next(stream for stream in container.streams.video if stream.frames == count)
            packets = [packet for packet in container.demux(stream) if packet.size]  # type: ignore[union-attr]
            delays = [Fraction(packet.duration or 0) * packet.time_base * 1000 for packet in packets]
    except (av.FFmpegError, StopIteration):
        return None
    return delays if len(delays) == count and all(delays) else None


def is_sound_jpeg(data: bytes) -> bool:
    """Return whether FFmpeg's decoder finds nothing wrong in a JPEG; True too where it does not read such."""
    import av

    for strictness in ("explode", "crccheck"):  # what the usual one refuses too is of other kinds
        try:
            with av.open(io.BytesIO(data), format="jpeg_pipe") as container:
                stream = container.streams.video[0]
                stream.codec_context.options = {"err_detect": strictness}
                stream.codec_context.thread_count = 1
                next(container.decode(stream))  # type: ignore[union-attr]
                return strictness == "explode"
        except (av.FFmpegError, StopIteration, IndexError):
            continue
    return True


def _from_packed(frame: Any) -> np.ndarray | None:
    name: str = frame.format.name
    if places := _IN_PLANES.get(name[:-2]):
        return np.concatenate([_codes_of(frame.planes[place], name, 1) for place in places], -1)
    if (channels := _CHANNELS.get(name[:-2])) is None:
        return None
    codes = _codes_of(frame.planes[0], name, channels)
    return ((codes.astype(np.uint32) * 65535 + 2047) // 4095).astype(np.uint16) if "12" in name else codes


def _codes_of(plane: Any, name: str, channels: int) -> np.ndarray:
    """Return a plane as uint16 (H, W, channels). name: of the format, which tells the order of bytes."""
    rows = np.frombuffer(memoryview(plane), ">u2" if name.endswith("be") else "<u2")
    rows = rows.reshape(-1, plane.line_size // 2)[: plane.height, : plane.width * channels]
    return rows.astype(np.uint16).reshape(plane.height, plane.width, channels)


def _from_planes(frame: Any) -> np.ndarray:
    """Convert planes to RGB; swscale undoes luma and chroma, and nothing else."""
    from av.video.reformatter import VideoReformatter

    look = look_of(frame, "keep")._replace(convert=True, alpha=False)
    whole = VideoReformatter().reformat(
        frame, format=look.format, src_colorspace=look.matrix, interpolation=sharp_filter(), threads=1
    )
    return np.stack(planes_of(whole, look), -1)
