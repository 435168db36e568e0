"""Turned, mirrored, cropped and anamorphic videos are decoded as ffmpeg and players show them."""

from __future__ import annotations

import io
import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from data.media.clips import ClipConfig
from data.media.film.geometry import Crop, Geometry, Turn, turn_of_matrix
from data.media.formats import DEFAULT_LIMITS, MediaError
from data.media.images import check, decode_video, probe
from data.media.remux import clips_of, copy_clip
from tests.data.ffmpeg import frames_of, require_ffmpeg
from tests.data.films import Matrix, copied, with_clean_aperture, with_matrix, with_matroska_crop
from tests.data.videos import encoded_video, noisy_clip

MATRICES: dict[str, Matrix] = {
    "as stored": (1, 0, 0, 1),
    "turned 90": (0, 1, -1, 0),
    "turned 180": (-1, 0, 0, -1),
    "turned 270": (0, -1, 1, 0),
    "mirrored left-right": (-1, 0, 0, 1),
    "mirrored up-down": (1, 0, 0, -1),
    "transposed": (0, 1, 1, 0),
    "anti-transposed": (0, -1, -1, 0),
}


@pytest.fixture(scope="module")
def plain() -> bytes:
    return encoded_video(noisy_clip(24), g="8", bf="2")


@pytest.mark.parametrize("name", MATRICES)
def test_a_display_matrix_is_applied_as_its_definition_says(plain: bytes, name: str) -> None:
    """(x, y) is shown at (a x + c y, b x + d y), moved to where both are positive."""
    a, b, c, d = MATRICES[name]
    data, stored = with_matrix(plain, MATRICES[name]), decode_video(plain)[0]
    high, wide = stored.shape[:2]
    expected = np.zeros((wide, high, 3) if b else stored.shape, np.uint8)
    y, x = np.mgrid[:high, :wide]
    across, down = a * x + c * y, b * x + d * y
    expected[down - down.min(), across - across.min()] = stored
    assert np.array_equal(decode_video(data)[0], expected)
    media = check(data)
    assert (media.height, media.width) == expected.shape[:2]
    assert media.found.get("orientation", "as stored") == name
    assert media == probe(data, fields=True)


@pytest.mark.parametrize("name", MATRICES)
def test_matrices_agree_with_ffmpeg(plain: bytes, name: str, tmp_path: Path) -> None:
    require_ffmpeg()
    data = with_matrix(plain, MATRICES[name])
    ours, theirs = decode_video(data).mean(-1), frames_of(tmp_path / "a.mp4", data)
    assert ours.shape == theirs.shape
    assert np.abs(theirs - ours).mean() < 4  # grey and the mean of RGB; another orientation is off by 20


@pytest.mark.parametrize("name", ["turned 90", "mirrored left-right", "transposed"])
def test_clips_keep_how_a_video_is_shown(plain: bytes, name: str) -> None:
    require_same_in_clips(with_matrix(plain, MATRICES[name]))


def require_same_in_clips(data: bytes) -> None:
    clips, _ = clips_of(data, ClipConfig(length_s=1), DEFAULT_LIMITS)
    assert clips is not None
    assert len(clips) > 1
    parts = [decode_video(copy_clip(io.BytesIO(data), clip, DEFAULT_LIMITS)) for clip in clips]
    assert np.array_equal(np.concatenate(parts), decode_video(data)[: sum(map(len, parts))])


def test_a_matrix_scales_and_may_be_off_by_less_than_a_degree() -> None:
    assert turn_of_matrix((0, 3 << 16, 0, -(2 << 16), 0, 0, 0, 0, 1 << 30)) == Turn(True, True, False)
    assert turn_of_matrix((65536, 500, 0, -500, 65536, 0, 0, 0, 1 << 30)) == Turn()
    for matrix in ((46341, 46341, 0, -46341, 46341), (0, 0, 0, 0, 0)):
        with pytest.raises(MediaError, match="multiples of 90"):
            turn_of_matrix((*matrix, 0, 0, 0, 1 << 30))


@pytest.mark.parametrize("format", ["mp4", "matroska", "avi"])
@pytest.mark.parametrize("aspect", [Fraction(4, 3), Fraction(8, 9), Fraction(64, 45)])
def test_a_circle_stays_a_circle(format: str, aspect: Fraction) -> None:
    y, x = np.mgrid[:96, :96] - 47.5
    wide, high = max(aspect, 1), 1 / min(aspect, 1)
    disc = (x * float(wide)) ** 2 + (y * float(high)) ** 2 < 24**2
    pixels = np.where(disc, 230, 30).astype(np.uint8)[None, ..., None].repeat(4, 0).repeat(3, -1)
    data = encoded_video(pixels, format, aspect=aspect, crf="5")
    media = check(data)
    assert (media.width, media.height) == (round(96 * wide), round(96 * high))
    assert media.found["pixel_aspect"] == f"{aspect.numerator}:{aspect.denominator}"
    for size in (None, (64, 64), (48, 80)):
        shown = decode_video(data, size=size)[0, ..., 1] > 128
        across, down = shown.any(0).sum(), shown.any(1).sum()
        assert abs(int(across) - int(down)) <= 2


def test_pixels_that_change_their_shape_are_named() -> None:
    parts = [
        encoded_video(noisy_clip(6), "h264", aspect=Fraction(aspect), **{"x264-params": "repeat-headers=1"})
        for aspect in (1, 2)
    ]
    with pytest.raises(MediaError, match="its pixels change their shape: 1:1, then 2:1"):
        check(copied(b"".join(parts), "matroska"))


def test_side_data_that_pyav_has_no_name_for_is_passed_over() -> None:
    """FFmpeg gives frames of PNG that carry EXIF such data, and those of films of several views."""
    exif = Image.Exif()
    exif[0x0131] = "a program"
    picture = Image.fromarray(noisy_clip(1)[0])
    out = io.BytesIO()
    with av.open(out, "w", format="mov") as film:
        stream = film.add_stream("png", rate=8)
        stream.width, stream.height, stream.pix_fmt = *picture.size, "rgb24"
        for number in range(3):
            file = io.BytesIO()
            picture.save(file, "PNG", exif=exif)
            packet = av.Packet(file.getvalue())
            packet.pts = packet.dts = number
            packet.time_base, packet.stream, packet.is_keyframe = Fraction(1, 8), stream, True
            film.mux(packet)
    assert check(out.getvalue()).frames == 3
    assert np.array_equal(decode_video(out.getvalue())[0], np.asarray(picture))


def test_anamorphic_pixels_are_those_of_ffmpegs_scale(tmp_path: Path) -> None:
    require_ffmpeg()
    data = encoded_video(noisy_clip(4, 48, 64), aspect=Fraction(4, 3), crf="5")
    theirs = frames_of(
        tmp_path / "a.mp4", data, "scale=iw*sar:ih:flags=bicubic+accurate_rnd+bitexact,setsar=1"
    )
    ours = decode_video(data).mean(-1)
    assert ours.shape == theirs.shape == (4, 48, 85)
    assert np.abs(theirs - ours).mean() < 4


def test_a_turned_anamorphic_video_is_made_square_first() -> None:
    data = with_matrix(encoded_video(noisy_clip(3), aspect=Fraction(4, 3)), MATRICES["turned 90"])
    assert probe(data)[:2] == (32, 64)
    assert decode_video(data).shape == (3, 64, 32, 3)


@pytest.mark.parametrize("right", [-4, 0, 5])
def test_a_clean_aperture_is_cut_off(plain: bytes, right: int) -> None:
    data = with_clean_aperture(plain, 41 if right % 2 else 40, 20, right, 2)
    left = (48 - (41 if right % 2 else 40) + right) // 2
    wide = 41 if right % 2 else 40
    media = check(data)
    assert media[:2] == (wide, 20)
    assert media.found["cropping"] == f"left {left} top 7 right {48 - left - wide} bottom 5"
    whole = decode_video(plain)[:, 7:27, left : left + wide]
    # Luma is the same; where the cut lies between chroma samples, these are off by half a pixel.
    assert np.abs(decode_video(data).astype(int) - whole).mean() < 3
    require_same_in_clips(data)


def test_matroska_crops() -> None:
    frames = noisy_clip(24)
    data = with_matroska_crop(encoded_video(frames, "matroska", g="8"), left=8, top=4)
    assert check(data).found["cropping"] == "left 8 top 4 right 0 bottom 0"
    assert decode_video(data).shape == (24, 28, 40, 3)
    assert np.abs(decode_video(data).astype(int) - frames[:, 4:, 8:]).mean() < 14  # the coding's own
    require_same_in_clips(data)


def test_a_crop_that_leaves_nothing_is_refused(plain: bytes) -> None:
    with pytest.raises(MediaError, match="leaves nothing of 48x32"):
        Geometry(crop=Crop(left=30, right=18)).box(48, 32)
    damaged = bytearray(with_clean_aperture(plain, 40, 20, 0, 0))
    struct.pack_into(">I", damaged, damaged.index(b"clap") + 8, 0)
    with pytest.raises(MediaError, match="denominator of 0"):
        probe(bytes(damaged))


@pytest.mark.parametrize(("height", "width"), [(32, 46), (34, 50), (18, 34)])
def test_sizes_that_are_no_multiple_of_a_block(height: int, width: int) -> None:
    """The codec crops what it added; decoders do that."""
    frames = noisy_clip(4, height, width)
    assert np.abs(decode_video(encoded_video(frames, crf="5")).astype(int) - frames).mean() < 9


def test_what_the_codec_cuts_at_the_left_is_cut() -> None:
    """Decoders leave in what is less than a step of their memory, unless they are asked to be exact."""
    frames = noisy_clip(6, 96, 128)
    plain = decode_video(encoded_video(frames, g="3"))
    data = encoded_video(frames, g="3", **{"x264-params": "crop-rect=8,4,16,8"})
    media = check(data)
    assert (media.width, media.height) == (128 - 24, 96 - 12)
    assert media.found["rules"] == "a film that its codec cuts at the left, since media rules 4"
    cut = decode_video(data)
    assert cut.shape == (6, 84, 104, 3)
    assert np.abs(cut.astype(int) - plain[:, 4:88, 8:112]).mean() < 1
    assert "rules" not in check(encoded_video(frames[:, :90, :100], g="3")).found
