"""Frames brought to a size against float64 resizing: no shift, no tint, chroma where it was sampled."""

import io

import av
import numpy as np
import pytest

from data.media.formats import DEFAULT_LIMITS
from data.media.images import decode_video, encode_mp4
from data.media.scaling import Scaler, grid_box
from data.media.video import opened_video
from tests.data.resizing import resized
from tests.data.videos import encoded_video

ROUNDING = 0.25  # mean error of rounding to whole numbers


def coloured(height: int, width: int, kind: str) -> np.ndarray:
    """uint8 (H, W, 3): waves, or rectangles with sharp edges, every channel its own."""
    random = np.random.default_rng(3)
    y, x = np.mgrid[:height, :width]
    if kind == "waves":
        waves = [np.sin(x * a + y * b) for a, b in random.uniform(0.02, 0.3, (3, 2))]
        return (128 + 100 * np.stack(waves, -1)).astype(np.uint8)
    small = random.integers(20, 235, (-(-height // 16), -(-width // 16), 3))
    return small.repeat(16, 0).repeat(16, 1)[:height, :width].astype(np.uint8)


def first_frame(pixels: np.ndarray) -> tuple[bytes, av.VideoFrame]:
    data = encoded_video(pixels[None].repeat(2, 0), crf="4")
    with opened_video(data, DEFAULT_LIMITS) as video:
        return data, next(frame for _, frame in video.pictures())


@pytest.mark.parametrize("kind", ["waves", "rectangles"])
@pytest.mark.parametrize(
    ("source", "target"),
    [((120, 214), (64, 64)), ((120, 214), (60, 107)), ((64, 48), (96, 96)), ((90, 90), (90, 90))],
    ids=["smaller, cropped", "half", "larger, cropped", "the same"],
)
def test_pixels_are_those_of_float64_resizing(
    kind: str, source: tuple[int, int], target: tuple[int, int]
) -> None:
    data, frame = first_frame(coloured(*source, kind))
    left, top, width, height = grid_box(frame, *target)
    expected = resized(frame, (left, top, left + width, top + height), *target)
    error = decode_video(data, frames=(0, 1, 1), size=target)[0] - expected
    inside = error[4:-4, 4:-4]  # beyond the edge swscale repeats it, within a crop it does as well
    assert np.abs(inside).mean() < ROUNDING + 0.05
    assert np.abs(inside.mean((0, 1))).max() < 0.1
    assert np.abs(error).mean() < 1


def test_the_comparison_would_see_a_shift_and_misplaced_chroma() -> None:
    _, frame = first_frame(coloured(120, 214, "waves"))
    left, top, width, height = grid_box(frame, 64, 64)
    box = (left, top, left + width, top + height)
    exact = resized(frame, box, 64, 64)
    for moved in (0.25, 0.5):
        shifted = resized(frame, (box[0] + moved, top, box[2] + moved, box[3]), 64, 64)
        assert np.abs(shifted - exact).mean() > ROUNDING + 0.05


def test_the_part_that_is_seen_is_in_the_middle_and_as_large_as_can_be() -> None:
    class Frame:
        height, width = 480, 854
        format = av.VideoFormat("yuv420p", 854, 480)

    assert grid_box(Frame, 256, 256) == (186, 0, 480, 480)  # exactly it would be from 187 on
    assert grid_box(Frame, 480, 854) == grid_box(Frame, 240, 427) == (0, 0, 854, 480)
    assert grid_box(Frame, 100, 300) == (0, 98, 854, 284)
    Frame.format = av.VideoFormat("yuv444p", 854, 480)
    assert grid_box(Frame, 256, 256) == (187, 0, 480, 480)


def test_colours_survive_resizing_in_the_files_own_matrix(tmp_path) -> None:
    """BT.709 and BT.601 differ by up to 20 levels."""
    pixels = np.zeros((2, 48, 96, 3), np.uint8)
    pixels[:, :, :48], pixels[:, :, 48:] = (200, 30, 40), (20, 220, 60)
    encode_mp4(tmp_path / "a.mp4", pixels, 8)
    tagged = decode_video((tmp_path / "a.mp4").read_bytes(), size=(24, 24))
    untagged = decode_video(encoded_video(pixels, crf="4"), size=(24, 24))
    for clip in (tagged, untagged):
        assert np.abs(clip[:, :, 2:10].astype(int) - (200, 30, 40)).max() <= 6
        assert np.abs(clip[:, :, 14:22].astype(int) - (20, 220, 60)).max() <= 6


def test_lossless_rgb_comes_back_as_it_was() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 48, 3), dtype=np.uint8)
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264rgb", rate=8, options={"crf": "0"})
        stream.height, stream.width, stream.pix_fmt = 32, 48, "rgb24"
        for frame in pixels:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    assert np.array_equal(decode_video(file.getvalue()), pixels)
    assert np.array_equal(decode_video(file.getvalue(), size=(32, 32)), pixels[:, :, 8:40])


def test_frames_of_several_sizes_and_formats_go_through_one_scaler() -> None:
    pixels = coloured(64, 96, "rectangles")
    frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
    scaler, out = Scaler(64, 64), np.zeros((64, 64, 3), np.uint8)
    for format, size in (
        ("yuv420p", 96),
        ("yuv444p", 96),
        ("yuv420p10le", 96),
        ("gray", 96),
        ("yuv420p", 192),
    ):
        scaler.write(frame.reformat(format=format, width=size, height=size * 2 // 3), out)
        expected = pixels[:, 16:80].astype(int) if format != "gray" else out.mean(-1, keepdims=True)
        assert np.abs(out - expected).mean() < 12
