"""Video through PyAV: count frames, decode chosen ones, encode H.264."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from core.files import atomic_file
from core.progress import counted
from data.media.colour import ColourMode
from data.media.film.codecs import encode_film
from data.media.film.geometry import Turn
from data.media.film.interlacing import Fields, deinterlaced, with_neighbours
from data.media.film.times import Times
from data.media.formats import (
    DEFAULT_LIMITS,
    MediaError,
    MediaLimits,
)
from data.media.scaling import Scaler, displayed_size
from data.media.seeking import chosen_frames
from data.media.video_file import Video, opened_video

Numbered = tuple[int, Any]  # number and decoded frame


def decode_video(
    data: bytes,
    limits: MediaLimits = DEFAULT_LIMITS,
    frames: tuple[int, int | None, int] = (0, None, 1),
    fps: float | None = None,
    size: tuple[int, int] | None = None,
    seek: bool = True,
    fields: Fields = Fields.WHOLE,
    colour: ColourMode = "convert",
) -> np.ndarray:
    """Decode the chosen frames as displayed (cut, turned, of square pixels) to uint8 (T, H, W, 3).

    frames: (start, count, stride): frames start, start + stride, ... of the file; count None: all there are.
    fps: the rate in which start and stride count; of each time, the frame that is on screen then. None: the
    frames of the file, whenever they are shown.
    size: (H, W) to which the middle of each frame is brought; None is that of the first one chosen.
    fields: how frames are interlaced, which are then made whole (`bwdif`); WHOLE leaves them as they are.
    seek=False numbers and decodes from the first frame on: the plain twin of doing no more than is needed.
    colour: whether colours that are not BT.709 are converted (`data.media.colour`).
    MediaError if there is no video stream, or fewer frames than asked for.
    """
    with opened_video(data, limits, by_table=seek) as video:
        wanted = wanted_frames(video.frames, video.times if fps else None, frames, fps)
        height, width = size or video.geometry.shown(*video.coded_size, Turn())
        limits.check_bytes(3 * height * width * len(wanted), "decoded clip")
        numbers = sorted(set(wanted))  # a rate above the file's takes frames twice
        missing = {number: place for place, number in enumerate(numbers)}
        clip = scaler = None
        for source in _sources(video, numbers, seek and not video.reads_once, fields):
            for number, frame in source:
                if (place := missing.pop(number, None)) is None:
                    continue
                if clip is None or scaler is None:
                    shape = size or displayed_size(frame, video.geometry)
                    scaler = Scaler(*shape, video.geometry, colour)
                    clip = np.empty((len(numbers), *scaler.size, 3), np.uint8)
                scaler.write(frame, clip[place])
                if not missing:
                    return clip if len(numbers) == len(wanted) else clip[np.searchsorted(numbers, wanted)]
    raise MediaError(f"damaged video: frame {min(missing)} of {video.frames} cannot be decoded")


def _sources(video: Video, numbers: list[int], seek: bool, fields: Fields) -> Iterator[Iterator[Numbered]]:
    """Yield sources of frames: what cannot be found by seeking is looked for from the first frame on."""
    if fields is Fields.WHOLE:
        yield from (chosen_frames(video, numbers), video.pictures()) if seek else (video.pictures(),)
        return
    if seek:
        yield deinterlaced(chosen_frames(video, with_neighbours(numbers, video.frames)), fields)
    yield deinterlaced(video.pictures(), fields)


def wanted_frames(
    available: int, times: Times | None, frames: tuple[int, int | None, int], fps: float | None
) -> list[int]:
    """Return the numbers of the frames to take, in the order asked for; frames, fps: as of `decode_video`.

    available: frames that the film has.  times: of these; needed with `fps` only.
    """
    if not fps or times is None or available == 1:
        return frame_numbers(available, *frames)
    wanted = frame_numbers(times.count_at(fps), *frames)
    return [times.on_screen(number / Fraction(fps)) for number in wanted]


def frame_numbers(available: int, start: int, count: int | None, stride: int) -> list[int]:
    """Return the numbers start, start + stride, ... of frames of a file that has `available`."""
    if start < 0 or stride < 1 or (count is not None and count < 1):
        raise ValueError(f"frames=({start}, {count}, {stride}): expected start >= 0, count >= 1, stride >= 1")
    if count is None:
        count = max(1, -(-(available - start) // stride))
    last = start + (count - 1) * stride
    if last >= available:
        raise MediaError(f"has {counted(available, 'frame')}, {last + 1} are needed")
    return list(range(start, last + 1, stride))


def encode_mp4(path: Path, frames: np.ndarray, fps: float, crf: int = 17) -> None:
    """Publish uint8 (T, H, W, 3) as an H.264 mp4; see `data.media.film.codecs.encode_film`."""
    data = encode_film(frames, fps, "h264", crf)
    with atomic_file(path) as published:
        published.write(data)
