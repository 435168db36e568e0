"""Small videos of many kinds: containers, groups of pictures, times."""

import io
from fractions import Fraction

import av
import numpy as np

from tests.data.samples import clip


def noisy_clip(frames: int = 30, height: int = 32, width: int = 48) -> np.ndarray:
    """A moving square under grain, so that no two frames are equal."""
    grain = np.random.default_rng(0).integers(-20, 20, (frames, height, width, 3))
    return (clip(frames, height, width) + grain).clip(0, 255).astype(np.uint8)


def encoded_video(
    frames: np.ndarray,
    format: str = "mp4",
    codec: str = "libx264",
    times: list[int] | None = None,
    muxing: dict[str, str] | None = None,
    aspect: Fraction | None = None,
    **options: str,
) -> bytes:
    """times: of display, in 80ths of a second; None: 8 frames a second.  options: of the encoder.

    aspect: width of a pixel over its height.
    """
    file = io.BytesIO()
    with av.open(file, "w", format=format, options=muxing or {}) as container:
        stream = container.add_stream(codec, rate=8, options={"threads": "1", **options})
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
        if aspect:
            stream.codec_context.sample_aspect_ratio = aspect
        stream.codec_context.time_base = unit = Fraction(1, 80 if times else 8)
        for number, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = times[number] if times else number, unit
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return file.getvalue()


def moved_earlier(data: bytes, frames: int) -> bytes:
    """The same packets in an MP4 whose edit list passes over what is shown before frame `frames`."""
    out = io.BytesIO()
    with av.open(io.BytesIO(data)) as source, av.open(out, "w", format="mp4") as target:
        stream = source.streams.video[0]
        copy = target.add_stream_from_template(stream)
        ticks = round(frames / (stream.average_rate * stream.time_base))
        for packet in source.demux(stream):
            if packet.size:
                packet.pts, packet.dts = packet.pts - ticks, packet.dts - ticks
                packet.stream = copy
                target.mux(packet)
    return out.getvalue()
