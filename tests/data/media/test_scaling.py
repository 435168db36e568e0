"""Frames brought to a size against float64 resizing: no shift, no tint, chroma where it was sampled."""

import io

import av
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from data.media.formats import DEFAULT_LIMITS
from data.media.images import decode_video, encode_mp4, resize_crop
from data.media.scaling import Scaler, covering_box, grid_box
from data.media.video_file import opened_video
from data.order.buckets import BucketConfig, _made_shapes
from tests.data.resizing import resized
from tests.data.videos import encoded_video

ROUNDING = 0.25  # mean error of rounding to whole numbers


def coloured(height: int, width: int, kind: str) -> np.ndarray:
    """Draw waves, or rectangles with sharp edges, every channel its own: uint8 (H, W, 3)."""
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


FORMATS = {"yuv420p": (2, 2), "yuv422p": (2, 1), "yuv444p": (1, 1), "yuv411p": (4, 1), "yuv410p": (4, 4)}
SIDES = st.integers(1, 20_000)
SHAPES = sorted(
    {
        shape
        for resolution, multiple in ((256, 32), (64, 8), (256, 16), (480, 16), (32, 8))
        for shape in _made_shapes(BucketConfig(resolution=resolution, multiple=multiple))
    }
)
TARGETS = st.sampled_from(SHAPES) | st.tuples(st.integers(1, 2048), st.integers(1, 2048))
POSITIONS = st.tuples(st.floats(0, 1), st.floats(0, 1))


def unclamped_box(
    source: tuple[int, int], target: tuple[int, int], position: tuple[float, float]
) -> tuple[float, float, float, float]:
    """Return the box by the formula without regard to rounding, as pixels of existing caches follow it."""
    scale = min(source[0] / target[0], source[1] / target[1])
    top = (source[0] - target[0] * scale) * position[0]
    left = (source[1] - target[1] * scale) * position[1]
    return left, top, min(left + target[1] * scale, source[1]), min(top + target[0] * scale, source[0])


@given(source=st.tuples(SIDES, SIDES), target=TARGETS, position=POSITIONS)
@example(source=(900, 1600), target=(192, 352), position=(0.5, 0.5))
@example(source=(1600, 900), target=(352, 192), position=(1.0, 1.0))
@example(source=(25, 25), target=(192, 352), position=(0.0, 1e-300))
def test_the_box_lies_in_the_picture_and_has_the_shape_of_the_target(
    source: tuple[int, int], target: tuple[int, int], position: tuple[float, float]
) -> None:
    left, top, right, bottom = covering_box(source, target, position)
    assert 0 <= left < right <= source[1]
    assert 0 <= top < bottom <= source[0]
    assert (right - left) * target[0] == pytest.approx((bottom - top) * target[1], rel=1e-9)
    assert max((right - left) / source[1], (bottom - top) / source[0]) == pytest.approx(1, rel=1e-12)
    before = unclamped_box(source, target, position)
    if min(before) >= 0:
        assert (left, top, right, bottom) == before


def test_a_side_that_fills_the_picture_begins_at_its_edge_for_every_size() -> None:
    """Sources have 1 to 4,000 pixels each way, targets are all made buckets.

    The formula alone begins some at -1e-13.
    """
    negative = 0
    for height, width in SHAPES:
        for side in range(1, 4001):
            for source in ((20 * side, side), (side, 20 * side)):
                box = covering_box(source, (height, width))
                assert 0 <= box[0] < box[2] <= source[1]
                assert 0 <= box[1] < box[3] <= source[0]
                negative += min(unclamped_box(source, (height, width), (0.5, 0.5))) < 0
    assert negative > 1000


@given(source=st.tuples(st.integers(1, 300), st.integers(1, 300)), target=TARGETS, position=POSITIONS)
@example(source=(900, 1600), target=(192, 352), position=(0.5, 0.5))
def test_pillow_takes_every_box(
    source: tuple[int, int], target: tuple[int, int], position: tuple[float, float]
) -> None:
    pixels = np.full((*source, 3), 77, np.uint8)
    resized = resize_crop(pixels, *target, position)
    assert resized.shape == (*target, 3)
    assert (resized == 77).all()


@given(
    format=st.sampled_from(sorted(FORMATS)),
    source=st.tuples(SIDES, SIDES) | st.tuples(st.integers(1, 9), st.integers(1, 9)),
    target=TARGETS,
)
def test_the_part_of_a_frame_lies_in_it_and_begins_on_the_chroma_grid(
    format: str, source: tuple[int, int], target: tuple[int, int]
) -> None:
    class Frame:
        height, width = source

    Frame.format = av.VideoFormat(format, source[1], source[0])
    left, top, width, height = grid_box(Frame, *target)
    across, down = FORMATS[format]
    assert 0 < width <= source[1] - left
    assert 0 < height <= source[0] - top
    assert left % across == top % down == 0 == min(left, top, 0)
    assert width == source[1] or width % across == 0
    assert height == source[0] or height % down == 0


@pytest.mark.parametrize("format", sorted(FORMATS))
@pytest.mark.parametrize("size", [(1, 1), (3, 3), (40, 3), (3, 40)])
def test_frames_of_few_pixels_are_scaled(format: str, size: tuple[int, int]) -> None:
    frame = av.VideoFrame.from_ndarray(np.full((*size, 3), 77, np.uint8), format="rgb24")
    out = np.zeros((16, 16, 3), np.uint8)
    Scaler(16, 16).write(frame.reformat(format=format), out)
    assert np.abs(out.astype(int) - 77).max() <= 3
