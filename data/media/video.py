"""Video through PyAV: count frames, decode chosen ones, encode H.264."""

from __future__ import annotations

import contextlib
import io
import itertools
from collections.abc import Iterator
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from core.files import atomic_file
from data.media.formats import (
    DEFAULT_LIMITS,
    IMAGE_FORMATS,
    VIDEO_FORMATS,
    MediaError,
    MediaLimits,
    suffix_of,
)
from data.media.scaling import Scaler, displayed_size
from data.media.seeking import chosen_frames, listed_packets, read_table

BT709 = 1  # colour matrix, primaries and transfer of ITU-T H.273, as HD players expect
LIMITED_RANGE = 1


def decode_video(
    data: bytes,
    limits: MediaLimits = DEFAULT_LIMITS,
    frames: tuple[int, int | None, int] = (0, None, 1),
    fps: float | None = None,
    size: tuple[int, int] | None = None,
    seek: bool = True,
) -> np.ndarray:
    """uint8 (T, H, W, 3): the chosen frames, turned as the file says.

    frames: (start, count, stride): frames start, start + stride, ... of the file; count None: all there are.
    fps: the rate in which stride counts (the nearest frames are taken); None is the file's own.
    size: (H, W) to which the middle of each frame is brought; None is that of the first one chosen.
    seek=False numbers and decodes from the first frame on: the plain twin of doing no more than is needed.
    MediaError if there is no video stream, or fewer frames than asked for.
    """
    with opened_video(data, limits, by_table=seek) as video:
        wanted = frame_numbers(video.frames, *frames, rate=video.fps / fps if fps and video.fps else 1.0)
        limits.check_bytes(3 * (size[0] * size[1] if size else video.pixels) * len(wanted), "decoded clip")
        numbers = sorted(set(wanted))  # a rate above the file's takes frames twice
        missing = {number: place for place, number in enumerate(numbers)}
        clip = scaler = None
        # What cannot be found by seeking is looked for from the first frame on.
        for source in (chosen_frames(video, numbers), video.pictures()) if seek else (video.pictures(),):
            for number, frame in source:
                if (place := missing.pop(number, None)) is None:
                    continue
                if clip is None or scaler is None:
                    scaler = Scaler(*(size or displayed_size(frame)))
                    clip = np.empty((len(numbers), *scaler.size, 3), np.uint8)
                scaler.write(frame, clip[place])
                if not missing:
                    return clip if len(numbers) == len(wanted) else clip[np.searchsorted(numbers, wanted)]
    raise MediaError(f"damaged video: frame {min(missing)} of {video.frames} cannot be decoded")


def frame_numbers(available: int, start: int, count: int | None, stride: int, rate: float = 1.0) -> list[int]:
    """Numbers of the frames to take from a file that has `available`; rate: its frames per unit of stride."""
    step = stride * rate
    if start < 0 or step <= 0 or (count is not None and count < 1):
        raise ValueError(f"frames=({start}, {count}, {stride}): expected start >= 0, count >= 1, stride > 0")
    if count is None:
        numbers = [start]
        while (following := start + round(len(numbers) * step)) < available:
            numbers.append(following)
    else:
        numbers = [start + round(k * step) for k in range(count)]
    if numbers[-1] >= available:
        raise MediaError(f"has {available} frames, {numbers[-1] + 1} are needed")
    return numbers


class Seen(NamedTuple):
    """What is known of a packet without decoding it: times of display and decoding, if the file says them."""

    time: int | None
    decoded_at: int | None
    key: bool
    shown: bool


class Video:
    """An open file: knows how many frames it has before any is decoded, yields decoded ones numbered.

    by_table: believe the header about how many frames there are, where it lists them, instead of reading all
    packets.
    """

    def __init__(self, container: Any, size: int, limits: MediaLimits, by_table: bool = False) -> None:
        if not container.streams.video:
            raise MediaError("has no video stream")
        self.container, self.limits = container, limits
        self.stream = container.streams.video[0]
        context = self.stream.codec_context
        if context is None:
            raise MediaError("no decoder for its video stream")
        context.thread_count = 1  # samples, not frames, are decoded at the same time
        limits.check_picture(context.width, context.height)
        self.pixels = context.width * context.height
        if len(self.stream.index_entries) > limits.frames:
            raise MediaError(f"has more than {limits.frames} frames, the limit")
        self.table = read_table(self.stream, size) if by_table else None
        self.frames = self.table.frames if self.table else sum(packet.shown for packet in self.packets)
        self.fps = float(self.stream.average_rate or 0)
        if self.frames == 0 or (self.fps <= 0 and self.frames > 1):  # a single frame needs no rate
            raise MediaError(
                f"video stream without frames or rate ({self.frames} frames at {self.fps} a second)"
            )
        if self.fps > 0 and self.frames / self.fps > limits.seconds:
            raise MediaError(f"lasts {self.frames / self.fps:.1f} s, the limit is {limits.seconds} s")

    @cached_property
    def packets(self) -> list[Seen]:
        """All packets of the file, in order of decoding."""
        seen = []
        for packet in self.packets_from(None):
            seen.append(Seen(packet.pts, packet.dts, packet.is_keyframe, not packet.is_discard))
            if len(seen) > self.limits.frames:
                raise MediaError(f"has more than {self.limits.frames} frames, the limit")
        if len(seen) < (expected := listed_packets(self.stream)):
            raise MediaError(f"truncated video: {len(seen)} of {expected} frames are there")
        return seen

    @cached_property
    def numbers(self) -> dict[int, int] | None:
        """Number of the frame shown at a time; None if times are missing or double (damaged, or AVI)."""
        times = [packet.time for packet in self.packets if packet.time is not None]
        shown = sorted(packet.time for packet in self.packets if packet.shown and packet.time is not None)
        if not len(self.packets) == len(times) == len(set(times)):
            return None
        return {time: number for number, time in enumerate(shown)}

    def packets_from(self, time: int | None) -> Iterator[Any]:
        """Packets from where the demuxer lands that is asked for a time of decoding; None: from the first."""
        if time is None:
            self.container.seek(0)
        else:
            self.container.seek(time, stream=self.stream)
        return (packet for packet in self.container.demux(self.stream) if packet.size)

    def pictures(self) -> Iterator[tuple[int, Any]]:
        """(number, decoded frame) of all frames, in order of display."""
        numbers, count = self.numbers, 0
        self.stream.codec_context.skip_frame = "DEFAULT"
        for packet in itertools.chain(self.packets_from(None), [None]):  # None: the decoder's last frames
            for frame in self.stream.codec_context.decode(packet):
                self.check(frame)
                yield count if numbers is None else numbers.get(frame.pts, -1), frame
                count += 1

    def check(self, frame: Any) -> None:
        """MediaError if a frame is larger than the limits allow."""
        self.limits.check_picture(frame.width, frame.height)


@contextlib.contextmanager
def opened_video(data: bytes, limits: MediaLimits, by_table: bool = False) -> Iterator[Video]:
    """Open the bytes of a video file; whatever the decoder dislikes until it closes is a MediaError."""
    import av

    limits.check_bytes(len(data))
    suffix = suffix_of(data)
    if suffix in IMAGE_FORMATS:
        raise MediaError("is an image, not a video")
    try:
        with av.open(io.BytesIO(data), format=VIDEO_FORMATS[suffix], metadata_errors="replace") as container:
            yield Video(container, len(data), limits, by_table)
    except av.FFmpegError as error:
        raise MediaError(f"damaged video: {error.strerror}") from None


def encode_mp4(path: Path, frames: np.ndarray, fps: float, crf: int = 17) -> None:
    """Publish uint8 (T, H, W, 3) as an H.264 yuv420p mp4 in BT.709; equal input gives equal bytes.

    Odd sizes get one more row or column (a copy of the last), since yuv420p halves the colour planes.
    crf: 0 (lossless but for the colour planes) to 51 (worst).
    """
    import av
    from av.video.reformatter import VideoReformatter

    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or len(frames) == 0:
        raise ValueError(f"expected uint8 frames (T, H, W, 3), got {frames.dtype} {frames.shape}")
    frames = np.pad(frames, ((0, 0), (0, frames.shape[1] % 2), (0, frames.shape[2] % 2), (0, 0)), mode="edge")
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        # The number of threads changes the bytes; so does, on small frames, x264's macroblock tree, from one
        # process to the next (seen with x264's vector code at 32x32).
        options = {"crf": str(crf), "threads": "1", "x264-params": "mbtree=0"}
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001), options=options)
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], "yuv420p"
        context = stream.codec_context
        context.colorspace = context.color_primaries = context.color_trc = BT709
        context.color_range = LIMITED_RANGE
        to_yuv = VideoReformatter()
        for pixels in frames:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            yuv = to_yuv.reformat(
                frame, format="yuv420p", dst_colorspace=BT709, dst_color_range=LIMITED_RANGE
            )
            container.mux(stream.encode(yuv))
        container.mux(stream.encode())
    with atomic_file(path) as published:
        published.write(file.getvalue())
