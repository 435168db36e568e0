"""Clips of videos: where they are cut, and that copying packets changes no picture."""

import io
import struct
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace

import av
import numpy as np
import pytest
from av.video.frame import PictureType

from core.errors import UserError
from data.dataset.tars import MemberFile
from data.media.clips import END, Clip, ClipConfig, Packet, cut_video
from data.media.formats import DEFAULT_LIMITS, MediaError
from data.media.images import check, decode_video
from data.media.remux import clips_of, copy_clip
from tests.data.samples import clip


def packets(pattern: str) -> list[Packet]:
    """Parse `K4 B2 B1 P5` into packets: kind and time, in order of decoding; a size of 10 each."""
    return [Packet(int(word[1:]), 10, word[0] == "K") for word in pattern.split()]


CLOSED = packets("K0 P2 B1 P3 K4 P6 B5 P7 K8 P9 K10 P11")


def spans(clips: list[Clip]) -> list[tuple[int, int]]:
    return [(clip.start, clip.stop) for clip in clips]


def test_clips_adjoin_at_keyframes_and_keep_every_frame() -> None:
    clips = cut_video(CLOSED, [], ClipConfig(length_s=3), 1.0)
    assert spans(clips) == [(0, 4), (4, 8), (8, END)]
    assert [clip.frames for clip in clips] == [4, 4, 4]
    assert [clip.bytes for clip in clips] == [40, 40, 40]
    assert spans(cut_video(CLOSED, [], ClipConfig(length_s=5), 1.0)) == [(0, 8), (8, END)]
    assert spans(cut_video(CLOSED, [], ClipConfig(length_s=100), 1.0)) == [(0, END)]


def test_stride_may_overlap_or_skip() -> None:
    overlapping = cut_video(CLOSED, [], ClipConfig(length_s=6, stride_s=4), 1.0)
    assert spans(overlapping) == [(0, 7), (4, 10), (8, END)]  # 6 and 5 refer to each other: 7 is the next
    skipping = cut_video(CLOSED, [], ClipConfig(length_s=1, stride_s=8), 1.0)
    assert spans(skipping) == [(0, 1), (8, 9)]


def test_a_clip_does_not_stop_where_its_pictures_refer_to_what_follows() -> None:
    """B1 lies behind P2 in the file, so a clip with B1 has P2 too: it may stop at 1 or at 3, not at 2."""
    short = ClipConfig(length_s=2, stride_s=8)
    assert spans(cut_video(CLOSED, [], short, 1.0))[0] == (0, 3)


def test_a_clip_does_not_start_in_an_open_group_of_pictures() -> None:
    """B3 is shown before K4 but lies behind it: without the packets before it cannot be decoded."""
    opened = packets("K0 P2 B1 K4 B3 P5 K6 P7")
    assert spans(cut_video(opened, [], ClipConfig(length_s=3), 1.0)) == [(0, 6), (6, END)]


def test_no_clip_holds_two_scenes() -> None:
    assert spans(cut_video(CLOSED, [4], ClipConfig(scenes=True), 1.0)) == [(0, 4), (4, END)]
    # A scene that begins between keyframes loses what comes before its first one.
    assert spans(cut_video(CLOSED, [7], ClipConfig(scenes=True), 1.0)) == [(0, 7), (8, END)]
    assert spans(cut_video(CLOSED, [5, 6], ClipConfig(scenes=True), 1.0)) == [(0, 5), (8, END)]
    both = ClipConfig(scenes=True, length_s=3)
    assert spans(cut_video(CLOSED, [9], both, 1.0)) == [(0, 4), (4, 8), (8, 9), (10, END)]


def test_stride_needs_a_length() -> None:
    with pytest.raises(UserError, match="stride_s=2"):
        ClipConfig(stride_s=2)


def encoded(
    frames: np.ndarray,
    format: str = "mp4",
    sound: bool = False,
    keys: tuple[int, ...] = (),
    **options: str,
) -> bytes:
    """Encode a video. keys: frames that are keyframes whatever the encoder decides."""
    file = io.BytesIO()
    with av.open(file, "w", format=format) as container:
        stream = container.add_stream("libx264", rate=8, options={"crf": "20", "threads": "1", **options})
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
        heard = container.add_stream("aac", rate=8000) if sound else None
        for number, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pict_type = PictureType.I if number in keys else PictureType.NONE
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        if heard is not None:
            silence = av.AudioFrame.from_ndarray(
                np.zeros((1, 1024), np.float32), format="fltp", layout="mono"
            )
            silence.sample_rate = 8000
            container.mux([*heard.encode(silence), *heard.encode()])
    return file.getvalue()


def copied(data: bytes, config: ClipConfig) -> list[tuple[Clip, bytes]]:
    clips, _ = clips_of(data, config, DEFAULT_LIMITS)
    assert clips is not None
    return [(clip, copy_clip(io.BytesIO(data), clip, DEFAULT_LIMITS)) for clip in clips]


@pytest.mark.parametrize(
    "options",
    [
        {"g": "10", "bf": "3"},
        {"g": "4", "bf": "0"},
        {"g": "2", "bf": "2"},
        {"g": "1"},
    ],
    ids=["groups", "no B-frames", "short groups", "keyframes only"],
)
@pytest.mark.parametrize("format", ["mp4", "matroska"])
@pytest.mark.parametrize("stride", [0, 0.75])
def test_pictures_of_clips_are_those_of_the_video(
    options: dict[str, str], format: str, stride: float
) -> None:
    data = encoded(clip(40), format, **options)
    whole = decode_video(data)
    clips = copied(data, ClipConfig(length_s=1, stride_s=stride))
    unit = clips_of(data, ClipConfig(length_s=1), DEFAULT_LIMITS)[1]
    assert len(clips) > 1
    for about, part in clips:
        first = round(about.start * unit * 8)
        facts = check(part)
        assert (facts.frames, round(facts.fps, 1)) == (about.frames, 8.0)
        assert np.array_equal(decode_video(part), whole[first : first + about.frames])
    if not stride:
        assert sum(about.frames for about, _ in clips) == 40


def test_a_video_of_open_groups_stays_whole() -> None:
    data = encoded(clip(40), g="10", **{"x264-params": "open-gop=1:scenecut=0"})
    assert clips_of(data, ClipConfig(length_s=1), DEFAULT_LIMITS)[0] is None


def test_copying_again_gives_equal_bytes_and_no_sound() -> None:
    data = encoded(clip(40), sound=True, g="10")
    first, second = copied(data, ClipConfig(length_s=1)), copied(data, ClipConfig(length_s=1))
    assert first == second
    with av.open(io.BytesIO(first[0][1])) as container:
        assert [stream.type for stream in container.streams] == ["video"]
        assert "creation_time" not in container.metadata


def test_little_more_than_the_packets_is_kept() -> None:
    data = encoded(clip(40, 64, 96), g="10")
    assert all(len(part) < about.bytes + 2000 for about, part in copied(data, ClipConfig(length_s=1)))


def test_a_turned_video_gives_turned_clips() -> None:
    data = encoded(clip(20), g="10")
    matrix = data.index(b"tkhd") + 4 + 4 + 4 * 5 + 8 + 8
    turn = struct.pack(">9i", 0, 0x10000, 0, -0x10000, 0, 0, 0, 0, 0x40000000)
    turned = data[:matrix] + turn + data[matrix + 36 :]
    parts = [decode_video(part) for _, part in copied(turned, ClipConfig(length_s=1))]
    assert np.array_equal(np.concatenate(parts), decode_video(turned))
    assert parts[0].shape[1:3] == (48, 32)


def scenes() -> np.ndarray:
    """Make three scenes of 12, 9 and 11 frames, with a little movement in each."""
    colours = [(200, 30, 30)] * 12 + [(20, 160, 40)] * 9 + [(40, 50, 220)] * 11
    frames = np.array([np.full((32, 48, 3), colour, np.uint8) for colour in colours])
    for number, frame in enumerate(frames):
        frame[4:8, number : number + 6] = 255
    return frames


def test_scenes_are_found_and_not_mixed() -> None:
    data = encoded(scenes(), keys=(12, 21), **{"forced-idr": "1"})  # as encoders do where a scene changes
    clips = copied(data, ClipConfig(scenes=True))
    assert [about.frames for about, _ in clips] == [12, 9, 11]
    whole = decode_video(data)
    assert np.array_equal(decode_video(clips[1][1]), whole[12:21])
    loose = encoded(scenes(), g="7", **{"x264-params": "scenecut=0"})
    for about, part in copied(loose, ClipConfig(scenes=True)):
        pictures = decode_video(part).astype(int)
        assert about.frames <= 12
        between = np.abs(np.diff(pictures, axis=0)).mean((1, 2, 3))
        assert between.max(initial=0) < 20  # one scene only


def test_pyscenedetect_finds_the_same_cuts() -> None:
    pytest.importorskip("scenedetect", reason="optional: pip install longtake[scenes]")
    frames = scenes().repeat(3, 0)  # it wants scenes of 15 frames and more
    data = encoded(frames, keys=(36, 63), **{"forced-idr": "1"})
    config = ClipConfig(scenes=True, cuts="pyscenedetect")
    parts = copied(data, config)
    assert [about.frames for about, _ in parts] == [36, 27, 33]
    assert parts == copied(data, replace(config, cuts="difference"))
    flash = frames.copy()
    flash[10:12] = 255
    data = encoded(flash, keys=(10, 12, 36, 63), **{"forced-idr": "1"})
    assert [about.frames for about, _ in copied(data, config)] == [36, 27, 33]
    assert len(copied(data, replace(config, cuts="difference"))) == 5


def test_scene_finders_are_given_every_frame_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library is stood in for: what it is asked, and that its answers become times."""
    seen = []

    class Finder:
        def __init__(self, threshold: float) -> None:
            assert threshold == 12

        def process_frame(self, time: SimpleNamespace, picture: np.ndarray) -> list[SimpleNamespace]:
            seen.append((time.frame_num, picture.shape, picture.dtype))
            return [SimpleNamespace(frame_num=12)] if time.frame_num == 15 else []

        def post_process(self, time: SimpleNamespace) -> list[SimpleNamespace]:
            assert time.frame_num == 31
            return [SimpleNamespace(frame_num=21)]

    library = ModuleType("scenedetect")
    library.FrameTimecode = lambda number, fps: SimpleNamespace(frame_num=number, fps=fps)
    detectors = ModuleType("scenedetect.detectors")
    detectors.ContentDetector = Finder
    monkeypatch.setitem(sys.modules, "scenedetect", library)
    monkeypatch.setitem(sys.modules, "scenedetect.detectors", detectors)
    data = encoded(scenes(), keys=(12, 21), **{"forced-idr": "1"})
    clips = copied(data, ClipConfig(scenes=True, cuts="pyscenedetect", scene_threshold=12))
    assert [about.frames for about, _ in clips] == [12, 9, 11]
    assert seen == [(number, (32, 48, 3), np.uint8) for number in range(32)]


def test_a_way_to_find_scenes_needs_scenes() -> None:
    with pytest.raises(UserError, match="cuts=pyscenedetect"):
        ClipConfig(cuts="pyscenedetect")


def test_one_scene_stays_whole() -> None:
    for config in (ClipConfig(scenes=True), ClipConfig(length_s=60)):
        assert clips_of(encoded(clip(20), g="10"), config, DEFAULT_LIMITS)[0] is None


def test_clips_are_read_from_inside_a_tar(tmp_path: Path) -> None:
    data = encoded(clip(40), g="10")
    (tmp_path / "x").write_bytes(b"before" + data + b"after")
    with open(tmp_path / "x", "rb") as file:
        for about, part in copied(data, ClipConfig(length_s=1)):
            assert copy_clip(MemberFile(file, 6, len(data)), about, DEFAULT_LIMITS) == part


def test_another_video_than_was_listed_is_an_error() -> None:
    data, other = encoded(clip(40), g="10"), encoded(clip(40)[::-1], g="10")
    about, _ = copied(data, ClipConfig(length_s=1))[1]
    with pytest.raises(MediaError, match="it is not the video in which its clip was found"):
        copy_clip(io.BytesIO(other), about, DEFAULT_LIMITS)
    with pytest.raises(MediaError, match="damaged video"):
        copy_clip(io.BytesIO(data[:600]), about, DEFAULT_LIMITS)


def test_limits_apply_to_clips() -> None:
    from data.media.formats import MediaLimits

    data = encoded(clip(40), g="10")
    about, _ = copied(data, ClipConfig(length_s=1))[0]
    with pytest.raises(MediaError, match=r"clip of .* bytes, the limit is 100"):
        copy_clip(io.BytesIO(data), about, MediaLimits(bytes=100))
