"""Video through PyAV: count frames, decode chosen ones, encode H.264."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from core.files import atomic_file
from data.formats import DEFAULT_LIMITS, IMAGE_FORMATS, VIDEO_FORMATS, MediaError, MediaLimits, suffix_of

BT709 = 1  # colour matrix, primaries and transfer of ITU-T H.273, as HD players expect
LIMITED_RANGE = 1


def decode_video(
    data: bytes,
    limits: MediaLimits = DEFAULT_LIMITS,
    frames: tuple[int, int | None, int] = (0, None, 1),
    fps: float | None = None,
    seek: bool = True,
) -> np.ndarray:
    """uint8 (T, H, W, 3): the chosen frames, turned as the file says.

    frames: (start, count, stride): frames start, start + stride, ... of the file; count None: all there are.
    fps: the rate in which stride counts (the nearest frames are taken); None is the file's own.
    seek=False decodes from the first frame: the plain twin of seeking to the keyframe before `start`.
    MediaError if there is no video stream, or fewer frames than asked for.
    """
    with opened_video(data, limits) as video:
        wanted = frame_numbers(video.frames, *frames, rate=video.fps / fps if fps else 1.0)
        limits.check_bytes(3 * video.pixels * len(wanted), "decoded clip")
        pictures: list[np.ndarray] = []
        for number, picture, _ in video.pictures(wanted[0] if seek else 0):
            while len(pictures) < len(wanted) and wanted[len(pictures)] == number:
                pictures.append(picture)
            if len(pictures) == len(wanted):
                return np.stack(pictures)
    raise MediaError(f"damaged video: frame {wanted[len(pictures)]} of {video.frames} cannot be decoded")


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


class Video:
    """An open file: knows how many frames it has before any is decoded, yields decoded ones numbered."""

    def __init__(self, container: Any, limits: MediaLimits) -> None:
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
        self.times = self._display_times()
        self.frames = len(self.times)
        self.fps = float(self.stream.average_rate or 0)
        if self.frames == 0 or self.fps <= 0:
            raise MediaError(
                f"video stream without frames or rate ({self.frames} frames at {self.fps} a second)"
            )
        if self.frames / self.fps > limits.seconds:
            raise MediaError(f"lasts {self.frames / self.fps:.1f} s, the limit is {limits.seconds} s")

    def _display_times(self) -> list[int | None]:
        """Display time of each frame, from the packets alone."""
        times, packets = [], 0
        for packet in self.container.demux(self.stream):
            if packet.size:
                packets += 1
                if not packet.is_discard:
                    times.append(packet.pts)
                if packets > self.limits.frames:
                    raise MediaError(f"has more than {self.limits.frames} frames, the limit")
        if packets < self.stream.frames:
            raise MediaError(f"truncated video: {packets} of {self.stream.frames} frames are there")
        return times

    def pictures(self, start: int = 0) -> Iterator[tuple[int, np.ndarray, bool]]:
        """(number, uint8 (H, W, 3), known to be damaged) in order of display, from number `start` on."""
        from av.video.reformatter import VideoReformatter

        to_rgb = VideoReformatter()  # one for all frames: each new one starts threads (measured: 8x the time)
        times = sorted(time for time in self.times if time is not None)
        if len(times) == self.frames == len(set(times)):
            numbers = {time: number for number, time in enumerate(times)}
            self.container.seek(times[start], stream=self.stream)
        else:  # times are missing or double (damaged, or an old AVI): count from the first frame
            numbers = None
            self.container.seek(0)
        for count, frame in enumerate(self.container.decode(self.stream)):
            number = count if numbers is None else numbers.get(frame.pts, -1)
            if number < start:
                continue  # between the keyframe that was sought and `start`
            self.limits.check_picture(frame.width, frame.height)
            rgb = to_rgb.reformat(frame, format="rgb24").to_ndarray()
            picture = np.rot90(rgb, frame.rotation // 90)
            yield number, np.ascontiguousarray(picture), frame.is_corrupt


@contextlib.contextmanager
def opened_video(data: bytes, limits: MediaLimits) -> Iterator[Video]:
    """Open the bytes of a video file; whatever the decoder dislikes until it closes is a MediaError."""
    import av

    limits.check_bytes(len(data))
    suffix = suffix_of(data)
    if suffix in IMAGE_FORMATS:
        raise MediaError("is an image, not a video")
    try:
        with av.open(io.BytesIO(data), format=VIDEO_FORMATS[suffix], metadata_errors="replace") as container:
            yield Video(container, limits)
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
