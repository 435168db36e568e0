"""Interlaced films are recognised by flags or by idet, and made whole as bwdif does it."""

from __future__ import annotations

import io
from pathlib import Path

import av
import numpy as np
import pytest
from av.filter import Graph

from data.media.film.interlacing import Fields
from data.media.images import check, decode_video, probe
from tests.data.ffmpeg import frames_of, require_ffmpeg
from tests.data.films import interlaced, moving_bars
from tests.data.videos import encoded_video, noisy_clip

INTERLACED_CODING = 0x20040000  # AV_CODEC_FLAG_INTERLACED_DCT and _ME


def woven(top_first: bool = True) -> bytes:
    """Return interlaced frames whose file does not say so."""
    return encoded_video(interlaced(moving_bars(60), top_first), crf="8", g="10", bf="2")


def flagged(top_first: bool = True) -> bytes:
    """Return interlaced frames coded as such, with their flags."""
    file, frames = io.BytesIO(), interlaced(moving_bars(60), top_first)
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("mpeg2video", rate=8, options={"g": "10", "bf": "2", "q:v": "2"})
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
        stream.codec_context.flags |= INTERLACED_CODING
        graph = Graph()
        source = graph.add_buffer(width=128, height=96, format="yuv420p", time_base=stream.time_base or "1/8")
        field = graph.add("setfield", "tff" if top_first else "bff")
        graph.link_nodes(source, field, graph.add("buffersink")).configure()
        for number, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format="yuv420p")
            frame.pts = number
            graph.vpush(frame)
            container.mux(stream.encode(graph.vpull()))
        container.mux(stream.encode())
    return file.getvalue()


def sinking_spot() -> np.ndarray:
    """Return a small film of a spot as thin as rows that sinks by part of a row a frame, as digits may."""
    rows, columns = np.arange(32)[:, None], np.arange(32)[None]
    spots = [np.exp(-((rows - 6 - 0.7 * n) ** 2 + (columns - 16) ** 2) / 8) for n in range(17)]
    return np.repeat((255 * np.array(spots))[..., None], 3, -1).astype(np.uint8)


@pytest.mark.parametrize(
    ("data", "fields"),
    [
        (woven(), Fields.TOP_FIRST),
        (woven(top_first=False), Fields.BOTTOM_FIRST),
        (flagged(), Fields.FLAGGED),
        (encoded_video(moving_bars(30)), Fields.WHOLE),
        (encoded_video(noisy_clip()), Fields.WHOLE),
        (encoded_video(np.zeros((8, 32, 48, 3), np.uint8)), Fields.WHOLE),
        (encoded_video(noisy_clip(8, 6, 8), codec="mpeg4"), Fields.WHOLE),
        (encoded_video(sinking_spot()), Fields.WHOLE),
    ],
    ids=["top first", "bottom first", "flagged", "moving", "noise", "still", "tiny", "small and thin"],
)
def test_interlacing_is_seen_and_said(data: bytes, fields: Fields) -> None:
    media = check(data)
    assert media.fields == fields
    assert media.found.get("interlacing", "") == fields.description
    assert probe(data, fields=True) == media


@pytest.mark.parametrize("kind", ["woven", "flagged"])
def test_whole_frames_are_those_of_ffmpegs_bwdif(kind: str, tmp_path: Path) -> None:
    require_ffmpeg()
    data, name, options = {
        "woven": (woven(), "a.mp4", "parity=tff:deint=all"),
        "flagged": (flagged(), "a.mp4", "parity=auto:deint=interlaced"),
    }[kind]
    theirs = frames_of(tmp_path / name, data, f"bwdif=mode=send_frame:{options}")
    ours = decode_video(data, fields=Fields(check(data).fields)).mean(-1)
    difference = np.abs(theirs - ours).mean((1, 2))
    assert difference[1:].max() < 2  # versions of the filter differ at the first frame
    assert np.abs(decode_video(data).mean(-1) - ours).mean() > 5


def test_clips_are_made_whole_as_the_film_is() -> None:
    data = woven()
    whole = decode_video(data, seek=False, fields=Fields.TOP_FIRST)
    assert len(whole) == 30
    for start in range(27):
        for stride in (1, 4):
            count = min(3, 1 + (29 - start) // stride)
            clip = decode_video(data, frames=(start, count, stride), fields=Fields.TOP_FIRST)
            assert np.array_equal(clip, whole[start::stride][:count]), (start, stride)
