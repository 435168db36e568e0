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


@pytest.mark.parametrize("codec", ["utvideo", "wmv2", "rawvideo"])
def test_a_film_that_no_clip_can_hold_is_named(codec: str) -> None:
    with pytest.raises(MediaError, match=f"cannot be cut: its {codec} is not copied into matroska or mov"):
        clips_of(film("avi", codec), ClipConfig(length_s=1), DEFAULT_LIMITS)
