"""Frames are taken by their times and in the order in which the decoder shows them."""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from data.media.clips import ClipConfig
from data.media.film.times import Seen, frames_at, measure
from data.media.formats import DEFAULT_LIMITS, MediaError
from data.media.images import check, decode_video, probe
from data.media.remux import clips_of, copy_clip
from data.media.video_file import Video, opened_video
from tests.data.ffmpeg import frames_of, require_ffmpeg
from tests.data.films import avi_chunks, avi_of, copied, with_edit
from tests.data.videos import encoded_video, moved_earlier, noisy_clip

UNEVEN = [*range(0, 80, 4), *range(80, 400, 16)]  # 80ths of a second: 20 frames a second, then 5
OPEN = {"g": "10", "bf": "3", "x264-params": "open-gop=1:scenecut=0:b-adapt=0"}


@pytest.mark.parametrize("format", ["mp4", "matroska"])
def test_a_frame_is_taken_where_it_is_on_screen(format: str) -> None:
    data = encoded_video(noisy_clip(40), format, times=UNEVEN, g="12", bf="2")
    whole = decode_video(data)
    media = check(data)
    assert media.found["frame_rate"] == "variable"
    assert abs(media.seconds - 5) < 0.2
    for fps in (5.0, 8.0, 24.0):
        count = frames_at(media.duration, fps)
        on_screen = [
            max(k for k, time in enumerate(UNEVEN) if time <= 80 * n / fps + 0.08) for n in range(count)
        ]
        assert np.array_equal(decode_video(data, fps=fps), whole[on_screen])
        assert np.array_equal(decode_video(data, frames=(3, 5, 2), fps=fps), whole[on_screen[3:12:2]])


def test_frames_on_screen_are_those_of_ffmpegs_fps(tmp_path: Path) -> None:
    require_ffmpeg()
    data = encoded_video(noisy_clip(40), times=UNEVEN, g="12", bf="2")
    plain, theirs = frames_of(tmp_path / "a.mp4", data), frames_of(tmp_path / "a.mp4", data, "fps=5:round=up")
    whole, ours = decode_video(data), decode_video(data, fps=5.0)
    number_of = {frame.tobytes(): number for number, frame in enumerate(plain)}
    numbers = [number_of[frame.tobytes()] for frame in theirs]
    assert np.array_equal(ours[: len(numbers)], whole[numbers][: len(ours)])
    assert abs(len(ours) - len(numbers)) <= 1  # how long the last frame lasts is not said


def seen(*times: int | None, duration: int = 0, shown: bool = True) -> list[Seen]:
    return [Seen(t, n, True, shown, duration, 9, n) for n, t in enumerate(times)]


class Stream:
    """The attributes that are read of a PyAV stream."""

    def __init__(self, unit: Fraction, rate: Fraction | None = None) -> None:
        self.time_base, self.average_rate, self.guessed_rate, self.base_rate = unit, rate, None, None


MS = Fraction(1, 1000)


def test_rates_and_durations_are_measured() -> None:
    exact = measure(seen(0, 1001, 2002), Stream(Fraction(1, 24000)))
    assert (exact.rate, exact.seconds, exact.variable) == (Fraction(24000, 1001), Fraction(1001, 8000), False)
    rounded = measure(seen(0, 42, 83, 125), Stream(MS, Fraction(24)))  # Matroska has milliseconds
    assert (rounded.rate, rounded.variable) == (24, False)
    believed = measure(seen(0, 200, 400, 1400, duration=40), Stream(MS, Fraction(25)))
    assert (believed.seconds, believed.variable) == (Fraction(12, 5), True)
    tidy = measure(seen(0, 17, 33, 50, 67), Stream(MS, Fraction(19001, 317)))  # of whole nanoseconds
    assert (tidy.rate, tidy.variable) == (Fraction(60000, 1001), False)
    ticks_of_a_frame = measure(seen(0, 1, 3, 4), Stream(Fraction(1, 8), Fraction(8)))  # AVI, an empty chunk
    assert ticks_of_a_frame.variable


def test_duplicate_missing_and_negative_times() -> None:
    twice = measure(seen(0, 40, 40, 80), Stream(MS, Fraction(25)))
    assert [twice.on_screen(Fraction(k, 25)) for k in range(3)] == [0, 2, 3]
    negative = measure(seen(-80, -40, 0), Stream(MS))
    assert (negative.seconds, negative.on_screen(Fraction(1, 25))) == (Fraction(3, 25), 1)
    assert measure(seen(None, None, None), Stream(MS)).ticks == (0, 1, 2)  # by times of decoding
    stuck = measure(seen(5, 5, 5), Stream(MS, Fraction(25)))
    assert (stuck.rate, stuck.seconds) == (25, Fraction(3, 25))
    with pytest.raises(MediaError, match="without times or rate"):
        measure(seen(5, 5), Stream(MS))
    with pytest.raises(MediaError, match=r"a frame at 0\.200 s is needed"):
        negative.on_screen(Fraction(1, 5))


def test_times_below_0_that_no_seeking_finds() -> None:
    """Clusters of Matroska have no such times: its reader gives these packets none."""
    pixels = noisy_clip(24)
    data = encoded_video(pixels, "matroska", g="8", bf="0")
    out = io.BytesIO()
    options = {"avoid_negative_ts": "disabled"}
    with av.open(io.BytesIO(data)) as source, av.open(out, "w", format="matroska", options=options) as film:
        copy = film.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.size:
                packet.pts, packet.dts, packet.stream = packet.pts - 1500, packet.dts - 1500, copy
                film.mux(packet)
    media = check(out.getvalue())
    assert (media.frames, media.found["rules"]) == (
        24,
        "a Matroska film with times below 0, since media rules 2",
    )
    assert np.array_equal(decode_video(out.getvalue()), decode_video(data))
    assert np.array_equal(decode_video(out.getvalue(), frames=(9, 2, 1)), decode_video(data)[9:11])


def decoded_order(data: bytes) -> np.ndarray:
    with av.open(io.BytesIO(data)) as container:
        return np.stack([frame.to_ndarray(format="gray") for frame in container.decode(video=0)])


REORDERED = {
    "AVI of H.264": lambda: encoded_video(noisy_clip(60), "avi", g="10", bf="3"),
    "AVI of H.264, open groups": lambda: encoded_video(noisy_clip(60), "avi", **OPEN),
    "AVI of MPEG-4": lambda: encoded_video(noisy_clip(60), "avi", "mpeg4", g="10", bf="2"),
    "AVI of MPEG-2": lambda: encoded_video(noisy_clip(60), "avi", "mpeg2video", g="10", bf="2"),
    **{
        f"AVI copied to {format}": lambda format=format: copied(
            encoded_video(noisy_clip(60), "avi", g="10", bf="3"), format
        )
        for format in ("mp4", "mov", "matroska")
    },
    "raw stream copied to mp4": lambda: copied(encoded_video(noisy_clip(60), "h264", g="10", bf="3"), "mp4"),
}


@pytest.mark.parametrize("kind", REORDERED)
def test_frames_come_in_the_order_of_the_decoder(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = REORDERED[kind]()
    whole = decode_video(data, seek=False)
    assert check(data).frames == len(whole) == 60
    order = decoded_order(data).reshape(60, -1)
    luma = whole.mean(-1).reshape(60, -1)
    near = np.abs(order[:, None].astype(np.float32) - luma[None]).mean(-1).argmin(1)
    assert near.tolist() == list(range(60))
    decoded: list[int] = []
    plain = Video.check
    monkeypatch.setattr(Video, "check", lambda self, frame: (decoded.append(1), plain(self, frame))[1])
    for start in range(0, 58, 3):
        decoded.clear()
        assert np.array_equal(decode_video(data, frames=(start, 2, 1)), whole[start : start + 2]), start
        assert len(decoded) <= 45, start  # a few groups of 10, not the whole film


def test_reordering_is_recorded_only_where_it_is() -> None:
    still = encoded_video(np.zeros((6, 32, 48, 3), np.uint8) + 90)  # might have B-frames
    assert "order" not in check(still).found
    copy = REORDERED["AVI copied to mp4"]()
    assert check(copy).found["order"] == probe(copy).found["order"] == "of the decoder"


def test_empty_chunks_of_avi_leave_the_frame_before() -> None:
    data = encoded_video(noisy_clip(12), "avi", g="6", bf="0")
    chunks = avi_chunks(data)
    held = avi_of(data, [*chunks[:4], b"", *chunks[4:7], b"", b"", *chunks[7:]], keys=(0, 7))
    whole = decode_video(data)
    assert check(held)[:3] == (48, 32, 12)
    assert np.array_equal(decode_video(held), whole)
    on_screen = [0, 1, 2, 3, 3, 4, 5, 6, 6, 6, 7, 8, 9, 10, 11]
    assert np.array_equal(decode_video(held, fps=8.0), whole[on_screen])
    with pytest.raises(MediaError, match=r"truncated|damaged"):
        check(held[: len(held) // 2])


def test_packed_mpeg4_and_frames_that_are_not_coded() -> None:
    """DivX puts a B-frame into the chunk of the frame before it, and an N-VOP in its place."""
    skipped = b"\0\0\1\xb6\x51\x7f"
    data = encoded_video(noisy_clip(20), "avi", "mpeg4", g="10", bf="1")
    chunks, start = avi_chunks(data), b"\0\0\1\xb6"
    packed: list[bytes] = []
    for chunk in chunks:
        if chunk[chunk.index(start) + 4] >> 6 == 2:  # a B-VOP
            packed[-1] += chunk[chunk.index(start) :]
            packed.append(skipped)
        else:
            packed.append(chunk)
    packed[0] = packed[0].replace(b"Lavc" + packed[0].split(b"Lavc")[1][:9], b"DivX503b1393p")
    divx = avi_of(data, packed)
    whole = decode_video(data)
    assert check(divx).frames == 20
    assert np.array_equal(decode_video(divx), whole)
    for first in range(18):
        assert np.array_equal(decode_video(divx, frames=(first, 2, 1)), whole[first : first + 2])
    plain = encoded_video(noisy_clip(20), "avi", "mpeg4", g="10", bf="0")
    chunks = avi_chunks(plain)
    dropped = avi_of(plain, [*chunks[:5], skipped, *chunks[5:]])
    assert check(dropped).frames == 20
    assert np.array_equal(decode_video(dropped, fps=8.0)[5:7], decode_video(plain)[4:6])


HIDDEN = {
    "begins in a group": lambda data: moved_earlier(data, 3),
    "begins in the second group": lambda data: moved_earlier(data, 18),
    "ends in a group": lambda data: with_edit(data, 4096, lasts_ms=5000),
    "both": lambda data: with_edit(data, 4096 + 13 * 2048, lasts_ms=4500),
}


@pytest.mark.parametrize("kind", HIDDEN)
def test_hidden_frames_are_in_no_clip(kind: str) -> None:
    data = HIDDEN[kind](encoded_video(noisy_clip(60), g="10", bf="2"))
    whole = decode_video(data)
    media = check(data)
    assert media.frames == len(whole) < 60
    assert int(media.found["hidden"]) > 0
    clips, _ = clips_of(data, ClipConfig(length_s=1), DEFAULT_LIMITS)
    assert clips is not None
    parts = [decode_video(copy_clip(io.BytesIO(data), clip, DEFAULT_LIMITS)) for clip in clips]
    assert [len(part) for part in parts] == [clip.frames for clip in clips]
    shown = np.concatenate(parts)
    assert np.array_equal(shown, whole[: len(shown)])
    assert 0 <= len(whole) - len(shown) < 3  # what refers to a hidden frame at the end


@pytest.mark.parametrize("kind", ["AVI of H.264", "AVI copied to mp4"])
def test_clips_of_a_file_without_times_of_display(kind: str) -> None:
    data = REORDERED[kind]()
    clips, _ = clips_of(data, ClipConfig(length_s=2), DEFAULT_LIMITS)
    assert clips is not None
    assert len(clips) > 1
    parts = [decode_video(copy_clip(io.BytesIO(data), clip, DEFAULT_LIMITS)) for clip in clips]
    assert np.array_equal(np.concatenate(parts), decode_video(data))


def test_a_long_film_is_not_decoded_for_its_times() -> None:
    data = encoded_video(noisy_clip(60), g="10", bf="2")
    with opened_video(data, DEFAULT_LIMITS, by_table=True) as video:
        assert video.table is not None
        assert "packets" not in vars(video)
