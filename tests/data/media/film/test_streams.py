"""The film is chosen from several streams."""

from __future__ import annotations

import io

import av
import numpy as np
import pytest

from data.media.clips import ClipConfig
from data.media.formats import DEFAULT_LIMITS, MediaError
from data.media.images import check, decode_video, probe
from data.media.remux import clips_of, copy_clip
from tests.data.videos import noisy_clip

Part = tuple[str, int, int, int]  # codec, height, width, frames
FILM, SMALL, COVER, LARGE_COVER = (
    ("libx264", 64, 96, 12),
    ("libx264", 32, 48, 12),
    ("mjpeg", 40, 40, 1),
    ("mjpeg", 200, 200, 1),
)


def joined(*parts: Part, format: str = "mp4", attached: int = -1) -> bytes:
    """Make a file of several video streams; the one at place `attached` is marked as an attached picture."""
    file = io.BytesIO()
    with av.open(file, "w", format=format) as out:
        streams = []
        for place, (codec, height, width, _) in enumerate(parts):
            stream = out.add_stream(codec, rate=24, options={"g": "4"} if codec == "libx264" else {})
            stream.height, stream.width = height, width
            stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
            if place == attached:
                stream.disposition = av.stream.Disposition.attached_pic
            streams.append(stream)
        for stream, (_, height, width, count) in zip(streams, parts, strict=True):
            for number, pixels in enumerate(noisy_clip(count, height, width)):
                frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
                frame.pts = number
                out.mux(stream.encode(frame))
            out.mux(stream.encode())
    return file.getvalue()


@pytest.mark.parametrize("format", ["mp4", "matroska"])
@pytest.mark.parametrize(
    "parts", [(COVER, FILM), (LARGE_COVER, FILM), (SMALL, FILM), (FILM, SMALL), (FILM, COVER)]
)
def test_the_film_is_taken_wherever_it_lies(parts: tuple[Part, ...], format: str) -> None:
    data = joined(*parts, format=format)
    media = check(data)
    assert media[:3] == (96, 64, 12)
    place = parts.index(FILM)
    assert media.found["stream"] == f"stream {place} of 2: the largest film"
    assert np.abs(decode_video(data).astype(int) - noisy_clip(12, 64, 96)).mean() < 14
    clips, _ = clips_of(data, ClipConfig(length_s=1 / 6), DEFAULT_LIMITS)
    assert clips is not None
    assert probe(copy_clip(io.BytesIO(data), clips[0], DEFAULT_LIMITS))[:2] == (96, 64)


def test_of_equal_films_the_first_is_taken_and_said() -> None:
    assert check(joined(FILM, FILM)).found["stream"] == "stream 0 of 2: the first of equal films"


def test_an_attached_picture_is_no_film() -> None:
    assert check(joined(FILM, COVER, attached=1)).found["stream"] == "the only film beside 1 picture"


def test_a_film_of_one_frame_is_an_image_of_one_frame() -> None:
    media = check(joined(("libx264", 32, 48, 1)))
    assert media.frames == 1
    assert decode_video(joined(("libx264", 32, 48, 1)), fps=30).shape == (1, 32, 48, 3)
    with pytest.raises(MediaError, match="has 1 frame, 2 are needed"):
        decode_video(joined(("libx264", 32, 48, 1)), frames=(0, 2, 1), fps=30)
