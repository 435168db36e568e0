"""Video: counting, decoding chosen frames, limits, encoding."""

import io
import struct
import subprocess
import sys
import wave
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from data.media.images import (
    Media,
    MediaError,
    MediaLimits,
    check,
    decode_video,
    encode_mp4,
    probe,
)
from data.media.video import frame_numbers
from tests.data.films import copied
from tests.data.samples import clip, clip_bytes, image_bytes, picture
from tests.data.videos import encoded_video


@pytest.fixture(scope="module")
def mp4(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return clip_bytes(tmp_path_factory.mktemp("clip"), frames=40)


def test_mp4_round_trip(mp4: bytes) -> None:
    expected = Media(48, 32, 40, 8.0, Fraction(8), Fraction(5), found={"frame_rate": "8"})
    assert probe(mp4) == check(mp4) == expected
    decoded = decode_video(mp4)
    assert (decoded.shape, decoded.dtype) == ((40, 32, 48, 3), np.uint8)
    assert np.abs(decoded.astype(int) - clip(40)).mean() < 3


@pytest.mark.parametrize("start", [0, 1, 7, 13, 36])
def test_seeking_equals_decoding_from_the_first_frame(start: int) -> None:
    """On a clip with several groups of pictures and B-frames, so that seeking does skip frames."""
    data = grouped_clip()
    plain = decode_video(data, frames=(start, 4, 1), seek=False)
    assert np.array_equal(decode_video(data, frames=(start, 4, 1)), plain)
    assert np.array_equal(plain, decode_video(data)[start : start + 4])


def grouped_clip() -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=8, options={"g": "10", "bf": "3", "crf": "20"})
        stream.height, stream.width, stream.pix_fmt = 32, 48, "yuv420p"
        for frame in clip(40):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return file.getvalue()


def test_stride_and_rate_choose_frames(mp4: bytes) -> None:
    full = decode_video(mp4)
    assert np.array_equal(decode_video(mp4, frames=(2, 5, 3)), full[2:15:3])
    assert np.array_equal(decode_video(mp4, frames=(0, 4, 1), fps=4.0), full[0:8:2])
    assert np.array_equal(decode_video(mp4, frames=(0, 4, 1), fps=16.0), full[[0, 0, 1, 1]])
    assert np.array_equal(decode_video(mp4, frames=(3, 3, 2), fps=4.0), full[6:15:4])
    assert frame_numbers(10, 1, None, 4) == [1, 5, 9]


def test_fewer_frames_than_asked_is_an_error(mp4: bytes) -> None:
    with pytest.raises(MediaError, match="has 40 frames, 41 are needed"):
        decode_video(mp4, frames=(0, 41, 1))
    with pytest.raises(MediaError, match="has 40 frames, 41 are needed"):
        decode_video(mp4, frames=(40, None, 1))


def test_mp4_without_video_stream_is_an_error() -> None:
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=8000)
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        silence.sample_rate = 8000
        container.mux(stream.encode(silence))
        container.mux(stream.encode())
    for function in (probe, check, decode_video):
        with pytest.raises(MediaError, match="has no video stream"):
            function(file.getvalue())


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (MediaLimits(pixels=1000), "claims 48x32 pixels"),
        (MediaLimits(frames=39), "more than 39 frames"),
        (MediaLimits(seconds=4.9), "lasts 5.0 s, the limit is 4.9 s"),
        (MediaLimits(bytes=100), "file of .* bytes, the limit is 100"),
        (MediaLimits(bytes=48 * 32 * 3 * 40 - 1), "decoded clip of 184320 bytes"),
    ],
)
def test_limits(mp4: bytes, limits: MediaLimits, message: str) -> None:
    with pytest.raises(MediaError, match=message):
        decode_video(mp4, limits)


def test_truncated_and_damaged_video_is_an_error(mp4: bytes) -> None:
    with pytest.raises(MediaError, match="damaged video"):  # the table of frames is at the end of the file
        probe(mp4[: len(mp4) * 2 // 3])
    start = mp4.index(b"mdat") + 1500
    noise = np.random.default_rng(0).bytes(600)
    with pytest.raises(MediaError, match="damaged video"):
        check(mp4[:start] + noise + mp4[start + 600 :])


@pytest.mark.parametrize("share", [0.35, 0.6, 0.9, 0.999])
@pytest.mark.parametrize("live", [False, True], ids=["of known length", "live"])
def test_a_matroska_film_that_is_cut_off_is_not_taken_for_a_shorter_one(
    mp4: bytes, share: float, live: bool
) -> None:
    whole = as_matroska(mp4, live=live)
    assert check(whole).frames == check(whole + b"trailing").frames == 40
    with pytest.raises(
        MediaError, match=r"truncated video: [\d,]+ bytes? that it declares (is|are) not there"
    ):
        check(whole[: int(share * len(whole))])


def as_matroska(data: bytes, *, live: bool) -> bytes:
    """Return the film with a segment of stated length, or, as recordings have it, of unknown length."""
    whole = copied(data, "matroska")
    at = whole.index(bytes.fromhex("18538067")) + 4
    assert whole[at] == 1  # a length of eight bytes
    return whole[:at] + b"\1" + b"\xff" * 7 + whole[at + 8 :] if live else whole


def test_of_two_mp4_files_one_behind_the_other_none_is_lost(mp4: bytes) -> None:
    with pytest.raises(MediaError, match="is two MP4 files one behind the other"):
        check(mp4 + mp4)


def test_segments_that_an_mp4_lists_and_does_not_have_are_missed() -> None:
    data = encoded_video(clip(24), muxing={"movflags": "frag_keyframe+empty_moov+default_base_moof"}, g="8")
    first = data.index(b"moof") - 4
    listed = struct.pack(">IIIIHHIII", 1, 8, 0, 0, 0, 1, len(data) - first, 24, 0)
    data = data[:first] + struct.pack(">I4sI", 12 + len(listed), b"sidx", 0) + listed + data[first:]
    assert check(data).frames == 24
    with pytest.raises(MediaError, match=r"truncated video: \d+ bytes that it declares are not there"):
        check(data[: data.rindex(b"moof") - 4])


def test_a_playlist_with_a_videos_name_opens_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_text(f"ffconcat version 1.0\nfile {tmp_path}/b.mp4\n")
    with pytest.raises(MediaError, match="not a JPEG"):
        probe(path)


def test_image_is_not_a_video() -> None:
    with pytest.raises(MediaError, match="is an image"):
        decode_video(image_bytes(picture()))


def test_sound_file_is_refused() -> None:
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", ""))
        sound.writeframes(bytes(100))
    with pytest.raises(MediaError, match="not a JPEG"):
        probe(file.getvalue())


def test_turned_video_is_decoded_as_displayed(mp4: bytes) -> None:
    """A quarter turn clockwise in the track header, as telephones write for upright clips."""
    matrix = mp4.index(b"tkhd") + 4 + 4 + 4 * 5 + 8 + 8
    assert struct.unpack(">i", mp4[matrix : matrix + 4]) == (0x10000,)
    turn = struct.pack(">9i", 0, 0x10000, 0, -0x10000, 0, 0, 0, 0, 0x40000000)
    turned = mp4[:matrix] + turn + mp4[matrix + 36 :]
    assert probe(turned)[:2] == (32, 48)
    assert np.array_equal(decode_video(turned)[0], np.rot90(decode_video(mp4)[0], -1))
    small = decode_video(mp4, size=(16, 20))[3]  # 40x32 of 48x32 pixels
    assert np.array_equal(decode_video(turned, size=(20, 16))[3], np.rot90(small, -1))


def test_equal_frames_give_equal_bytes_without_a_clock(tmp_path: Path) -> None:
    for name in "ab":
        encode_mp4(tmp_path / f"{name}.mp4", clip(), 8)
    data = (tmp_path / "a.mp4").read_bytes()
    assert data == (tmp_path / "b.mp4").read_bytes()
    creation = data.index(b"mvhd") + 8
    assert data[creation : creation + 8] == bytes(8)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.mp4", "b.mp4"]


ENCODE = """
import sys
from pathlib import Path
from data.media.images import encode_mp4
from tests.data.samples import clip

for name in ("small", "large"):
    encode_mp4(Path(sys.argv[1]) / f"{name}.mp4", clip(12, *((32, 48) if name == "small" else (96, 160))), 8)
"""


@pytest.mark.multiprocess
def test_equal_frames_give_equal_bytes_in_every_process(tmp_path: Path) -> None:
    """Encoders whose choices depend on memory that was never written differ between processes only."""
    for folder in (tmp_path / "a", tmp_path / "b"):
        folder.mkdir()
        subprocess.run([sys.executable, "-c", ENCODE, str(folder)], check=True)
    for name in ("small.mp4", "large.mp4"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_odd_sizes_are_padded_by_a_copy_of_the_edge(tmp_path: Path) -> None:
    encode_mp4(tmp_path / "a.mp4", clip(3, 31, 45), 8)
    decoded = decode_video((tmp_path / "a.mp4").read_bytes())
    assert decoded.shape == (3, 32, 46, 3)
    assert np.abs(decoded[:, :31, :45].astype(int) - clip(3, 31, 45)).mean() < 3


def test_failed_encoding_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(b"old")

    def full_disk(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        encode_mp4(path, clip(), 8)
    assert [p.name for p in tmp_path.iterdir()] == ["a.mp4"]
    assert path.read_bytes() == b"old"


def test_colours_survive(tmp_path: Path) -> None:
    pixels = np.zeros((4, 32, 32, 3), np.uint8)
    pixels[:, :, :16], pixels[:, :, 16:] = (200, 30, 40), (20, 220, 60)
    encode_mp4(tmp_path / "a.mp4", pixels, 8)
    decoded = decode_video((tmp_path / "a.mp4").read_bytes()).astype(int)
    for columns in (slice(2, 13), slice(19, 30)):
        assert np.abs(decoded - pixels)[:, :, columns].max() <= 6
