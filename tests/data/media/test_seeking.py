"""Chosen frames are those that decoding from the first frame on gives, and little else is read or decoded."""

from collections import Counter

import numpy as np
import pytest

from data.media.formats import DEFAULT_LIMITS, MediaError
from data.media.images import decode_video
from data.media.scaling import Scaler
from data.media.video_file import Video, opened_video
from tests.data.videos import encoded_video, moved_earlier, noisy_clip

GROUPS = {"g": "10", "bf": "3"}
PYRAMID = {"g": "12", "bf": "5", "x264-params": "b-pyramid=normal:b-adapt=0:scenecut=0"}
OPEN = {"g": "8", "bf": "3", "x264-params": "open-gop=1:scenecut=0:b-adapt=0"}
REFRESH = {"g": "10", "x264-params": "intra-refresh=1"}
UNEVEN = np.cumsum(np.random.default_rng(0).integers(3, 20, 30)).tolist()
KINDS = {
    "groups": lambda: encoded_video(noisy_clip(), **GROUPS),
    "groups in Matroska": lambda: encoded_video(noisy_clip(), "matroska", **GROUPS),
    "pyramid of B-frames": lambda: encoded_video(noisy_clip(), **PYRAMID),
    "open groups": lambda: encoded_video(noisy_clip(), **OPEN),
    "open groups in Matroska": lambda: encoded_video(noisy_clip(), "matroska", **OPEN),
    "groups of two": lambda: encoded_video(noisy_clip(), g="2", bf="2"),
    "keyframes only": lambda: encoded_video(noisy_clip(), g="1"),
    "no keyframes": lambda: encoded_video(noisy_clip(), **REFRESH),
    "uneven times": lambda: encoded_video(noisy_clip(), times=UNEVEN, **GROUPS),
    "starts late": lambda: encoded_video(noisy_clip(), times=[400 + time for time in UNEVEN], **GROUPS),
    "in fragments": lambda: encoded_video(
        noisy_clip(), muxing={"movflags": "frag_keyframe+empty_moov"}, g="10"
    ),
    "without an edit list": lambda: encoded_video(noisy_clip(), muxing={"use_editlist": "0"}, **GROUPS),
    "begins within a group": lambda: moved_earlier(encoded_video(noisy_clip(), **GROUPS), 3),
    "begins in the second group": lambda: moved_earlier(encoded_video(noisy_clip(), **GROUPS), 13),
    "MPEG-4 with B-frames": lambda: encoded_video(noisy_clip(), codec="mpeg4", **GROUPS),
    "AVI": lambda: encoded_video(noisy_clip(), "avi", g="10", bf="0"),
    "VP9": lambda: encoded_video(noisy_clip(), codec="libvpx-vp9", g="10"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_chosen_frames_are_those_of_the_whole_file(kind: str) -> None:
    data = KINDS[kind]()
    whole = decode_video(data, seek=False)
    assert len(whole) >= 15
    for start in range(len(whole)):
        for stride in (1, 3):
            count = min(4, 1 + (len(whole) - 1 - start) // stride)
            chosen = decode_video(data, frames=(start, count, stride))
            assert np.array_equal(chosen, whole[start::stride][:count]), (start, stride)


def test_what_an_edit_list_leaves_out_is_not_missing() -> None:
    """Readers get fewer packets of such files than the header counts."""
    whole = encoded_video(noisy_clip(), **GROUPS)  # once: x264 need not give the same bytes a second time
    moved = moved_earlier(whole, 13)
    assert np.array_equal(decode_video(moved)[-17:], decode_video(whole)[-17:])


def test_a_cut_off_file_is_known_by_its_table() -> None:
    data = encoded_video(noisy_clip(), muxing={"moov_size": "9000"}, **GROUPS)
    with opened_video(data, DEFAULT_LIMITS, by_table=True) as video:
        assert video.table is not None
    for seek in (True, False):
        with pytest.raises(MediaError, match=r"truncated video: .. of 30"):
            decode_video(data[: len(data) * 2 // 3], frames=(0, 4, 1), seek=seek)


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Count the work done: packets read, frames decoded, conversions."""
    done: Counter[str] = Counter()

    def counted(cls: type, name: str, what: str) -> None:
        plain = getattr(cls, name)
        monkeypatch.setattr(cls, name, lambda *args: (done.update([what]), plain(*args))[1])

    def packets_from(self, time, plain=Video.packets_from):
        for packet in plain(self, time):
            done["packets"] += 1
            yield packet

    monkeypatch.setattr(Video, "packets_from", packets_from)
    counted(Video, "check", "frames")
    counted(Scaler, "write", "conversions")
    return done


def test_a_clip_costs_no_more_than_its_groups(work: Counter[str]) -> None:
    """One group of 10 before it is passed over, and nothing after it is read but what proves its numbers."""
    data = encoded_video(noisy_clip(60), g="10", bf="0", **{"x264-params": "scenecut=0"})
    clip = decode_video(data, frames=(23, 5, 1), size=(16, 16))
    assert dict(work) == {"packets": 8 + 1, "frames": 8, "conversions": 5}  # 20 to 27; 28 is read only
    work.clear()
    assert np.array_equal(decode_video(data, frames=(23, 5, 1), size=(16, 16), seek=False), clip)
    assert dict(work) == {"packets": 60 + 28, "frames": 28, "conversions": 5}


def test_pictures_that_nobody_needs_are_not_decoded(work: Counter[str]) -> None:
    """I b B b P ...: every second frame is referred to by no other."""
    data = encoded_video(
        noisy_clip(48), g="48", bf="3", **{"x264-params": "b-pyramid=strict:b-adapt=0:scenecut=0"}
    )
    whole = decode_video(data)
    work.clear()
    assert np.array_equal(decode_video(data, frames=(40, 1, 1)), whole[40:41])
    assert work["frames"] <= 22
    assert work["conversions"] == 1
    work.clear()
    assert np.array_equal(decode_video(data, frames=(0, 12, 4)), whole[::4])
    assert work["frames"] <= 25
