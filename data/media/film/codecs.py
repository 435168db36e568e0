"""Write frames as a film: codecs, their containers, and settings by which equal frames give equal bytes."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np

from data.media.colour import BT709
from data.media.formats import MediaError

LIMITED_RANGE = 1


@dataclass(frozen=True)
class Codec:
    """A way to write films.

    encoder: its name in FFmpeg.  container, suffix: of the file.  crf: the usual quality, from 0 to worst,
    the smaller the better; None for a codec that loses nothing.  options: all others of the encoder.
    smallest: height and width that it takes.
    lossless: keeps every byte of RGB.  Others write 4:2:0 in BT.709, limited range.
    """

    encoder: str
    container: str
    suffix: str
    crf: int | None
    worst: int = 0
    options: Mapping[str, str] = field(default_factory=dict)
    tag: str = ""
    smallest: int = 1

    @property
    def lossless(self) -> bool:
        return self.crf is None


# The number of threads changes the bytes; so does, on small frames, x264's macroblock tree, from one process
# to the next (seen with x264's vector code at 32x32). x265's B-frames leave decoding times undefined in films
# of two frames; frames no larger than one of its blocks, of 64 pixels, come out as other bytes each time, and
# some (24x40) end the process.
CODECS: Mapping[str, Codec] = {
    "h264": Codec("libx264", "mp4", ".mp4", 17, 51, {"threads": "1", "x264-params": "mbtree=0"}),
    "hevc": Codec(
        "libx265",
        "mp4",
        ".mp4",
        20,
        51,
        {"x265-params": "pools=none:frame-threads=1:bframes=0:log-level=error"},
        tag="hvc1",
        smallest=66,
    ),
    "av1": Codec("libsvtav1", "mp4", ".mp4", 24, 63, {"preset": "8", "svtav1-params": "lp=1"}),
    "ffv1": Codec("ffv1", "matroska", ".mkv", None, 0, {"threads": "1"}),
}


def encode_film(frames: np.ndarray, fps: float, codec: str = "h264", crf: int | None = None) -> bytes:
    """Encode uint8 (T, H, W, 3) as the bytes of a film; equal input gives equal bytes.

    Odd sizes get one more row or column (a copy of the last) where colour planes are halved.
    codec: of `CODECS`.  crf: 0 to its worst; None is its usual one.  MediaError for frames that it refuses or
    that are too small for it.
    """
    import av
    from av.video.reformatter import VideoReformatter

    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or len(frames) == 0:
        raise ValueError(f"expected uint8 frames (T, H, W, 3), got {frames.dtype} {frames.shape}")
    kind = CODECS[codec]
    if not kind.lossless:
        odd = (0, frames.shape[1] % 2), (0, frames.shape[2] % 2)
        frames = np.pad(frames, ((0, 0), *odd, (0, 0)), mode="edge")
    if min(frames.shape[1:3]) < kind.smallest:
        least = f"at least {kind.smallest} x {kind.smallest}, not {frames.shape[1]} x {frames.shape[2]}"
        raise MediaError(f"{kind.encoder} writes frames of {least} pixels")
    file = io.BytesIO()
    marks = {"fflags": "+bitexact"} if kind.lossless else {}  # else Matroska has a random number
    refusals = _refusals(av.FFmpegError, kind, frames)
    with refusals, kept_priority(), av.open(file, "w", format=kind.container, options=marks) as container:
        stream: Any = container.add_stream(
            kind.encoder, rate=Fraction(fps).limit_denominator(1001), options=_options(kind, crf)
        )
        stream.height, stream.width = frames.shape[1], frames.shape[2]
        stream.pix_fmt = "bgr0" if kind.lossless else "yuv420p"
        context = stream.codec_context
        if kind.tag:
            context.codec_tag = kind.tag
        if not kind.lossless:
            context.colorspace = context.color_primaries = context.color_trc = BT709
            context.color_range = LIMITED_RANGE
        reformatter = VideoReformatter()
        for pixels in frames:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            container.mux(stream.encode(_converted(reformatter, frame, kind)))
        container.mux(stream.encode())
    return file.getvalue()


@contextlib.contextmanager
def _refusals(error: type[Exception], kind: Codec, frames: np.ndarray) -> Iterator[None]:
    """Turn what a library says of frames that it does not take into MediaError."""
    try:
        yield
    except error as refused:
        size = f"{frames.shape[1]} x {frames.shape[2]}"
        raise MediaError(f"{kind.encoder} does not take frames of {size} pixels ({refused})") from None


@contextlib.contextmanager
def kept_priority() -> Iterator[None]:
    """Undo what SVT-AV1 does: as root it gives its caller real-time priority, which starves all others.

    It also prints its settings for every film, unless this variable says otherwise.
    """
    os.environ.setdefault("SVT_LOG", "1")
    policy, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        yield
    finally:
        if os.sched_getscheduler(0) != policy:
            os.sched_setscheduler(0, policy, parameters)


def _options(kind: Codec, crf: int | None) -> dict[str, str]:
    if kind.crf is None:
        return dict(kind.options)
    return {"crf": str(kind.crf if crf is None else crf), **kind.options}


def _converted(reformatter: Any, frame: Any, kind: Codec) -> Any:
    if kind.lossless:
        return reformatter.reformat(frame, format="bgr0", threads=1)
    limited = {"dst_colorspace": BT709, "dst_color_range": LIMITED_RANGE}
    return reformatter.reformat(frame, format="yuv420p", threads=1, **limited)
