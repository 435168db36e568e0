"""Clips of films in codecs that have no encoder here, no honest keyframes, or no other container."""

from __future__ import annotations

import io

import numpy as np
import pytest

from data.media.clips import ClipConfig
from data.media.film.codecs import kept_priority
from data.media.formats import DEFAULT_LIMITS, MediaError
from data.media.images import check, decode_video
from data.media.remux import clips_of, copy_clip
from tests.data.videos import encoded_video, noisy_clip


def film(format: str, codec: str, **options: str) -> bytes:
    frames = np.repeat(np.repeat(noisy_clip(24), 4, 1), 4, 2)[:, :96, :128]
    with kept_priority():
        return encoded_video(frames, format, codec, **options)


@pytest.mark.parametrize(
    ("format", "codec", "options"),
    [
        ("mp4", "libsvtav1", {"g": "8", "preset": "10", "svtav1-params": "lp=1"}),
        ("avi", "h263", {"g": "8"}),  # FFmpeg takes each of its pictures for a keyframe
    ],
)
def test_clips_show_what_the_film_shows(format: str, codec: str, options: dict[str, str]) -> None:
    data = film(format, codec, **options)
    whole = decode_video(data, seek=False)
    clips, _ = clips_of(data, ClipConfig(length_s=1), DEFAULT_LIMITS)
    assert clips is not None
    parts = [copy_clip(io.BytesIO(data), clip, DEFAULT_LIMITS) for clip in clips]
    assert len(parts) > 1
    assert np.array_equal(np.concatenate([decode_video(part) for part in parts]), whole)
    assert sum(check(part).frames for part in parts) == 24


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
def test_clips_have_the_shape_of_pixels_that_matroska_states(codec: str) -> None:
    """PyAV writes no other shape into Matroska than that of the codec."""
    data = film("matroska", codec, g="8", bf="0")
    unit = b"\x54\xb2\x81\x04\x55\xee\x81\x00"  # 8 bytes that say nothing: no unit, no additions
    at = data.index(unit)
    data = data.replace(unit, b"\x54\xb0\x81\xff\x54\xba\x81\x60")  # displayed as 255 x 96
    video = data.rindex(b"\xe0", 0, at)
    data = data[: video + 1] + bytes([data[video + 1] + 4]) + data[video + 2 :]
    whole = check(data)
    assert (whole.width, whole.height) == (255, 96)
    clips, _ = clips_of(data, ClipConfig(length_s=1), DEFAULT_LIMITS)
    assert clips is not None
    for clip in clips:
        part = check(copy_clip(io.BytesIO(data), clip, DEFAULT_LIMITS))
        assert (part.width, part.height) == (255, 96)


@pytest.mark.parametrize("codec", ["utvideo", "wmv2", "rawvideo"])
def test_a_film_that_no_clip_can_hold_is_named(codec: str) -> None:
    with pytest.raises(MediaError, match=f"cannot be cut: its {codec} is not copied into matroska or mov"):
        clips_of(film("avi", codec), ClipConfig(length_s=1), DEFAULT_LIMITS)
