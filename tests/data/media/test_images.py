"""Images: decoding, limits, resizing, the uint8 rule."""

import io
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from data.media.formats import suffix_of
from data.media.images import (
    Media,
    MediaError,
    MediaLimits,
    check,
    decode_image,
    encode_png,
    from_tensor,
    probe,
    resize_crop,
    to_tensor,
)
from tests.data.samples import huge_png, image_bytes, picture


@pytest.mark.parametrize(("format", "suffix"), [("PNG", "png"), ("JPEG", "jpg"), ("WEBP", "webp")])
def test_image_is_known_by_content_and_decoded(format: str, suffix: str) -> None:
    data = image_bytes(picture(), format)
    assert suffix_of(data[:16]) == suffix
    assert probe(data) == check(data) == Media(16, 12, 1, 0.0)
    pixels = decode_image(data)
    assert (pixels.shape, pixels.dtype) == ((12, 16, 3), np.uint8)
    assert np.abs(pixels.astype(int) - picture()).mean() < 8


def test_png_round_trip_is_exact() -> None:
    assert np.array_equal(decode_image(encode_png(picture())), picture())


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = image_bytes(picture(), "PNG", exif=exif)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    assert np.array_equal(decode_image(data), expected)
    assert probe(data)[:2] == (expected.shape[1], expected.shape[0])


def test_transparency_is_laid_over_white() -> None:
    pixels = np.zeros((2, 2, 4), np.uint8)
    pixels[0, :, 3] = 255
    assert decode_image(image_bytes(pixels))[..., 0].tolist() == [[0, 0], [255, 255]]
    palette = Image.fromarray(picture()).quantize(4)
    file = io.BytesIO()
    palette.save(file, "PNG", transparency=palette.getpixel((0, 0)))
    assert decode_image(file.getvalue())[0, 0].tolist() == [255, 255, 255]


def test_grey_and_sixteen_bit_become_rgb() -> None:
    grey = picture()[..., 0]
    assert np.array_equal(decode_image(image_bytes(grey)), np.repeat(grey[..., None], 3, -1))
    deep = grey.astype(np.uint16) * 257
    assert np.array_equal(decode_image(image_bytes(deep))[..., 1], grey)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
def test_truncated_image_is_an_error(format: str) -> None:
    data = image_bytes(picture(64, 64), format)
    with pytest.raises(MediaError, match="damaged image"):
        decode_image(data[: len(data) * 2 // 3])
    with pytest.raises(MediaError, match="damaged image"):
        check(data[: len(data) * 2 // 3])


def test_png_that_claims_60000_by_60000_pixels_is_refused_before_decoding() -> None:
    with pytest.raises(MediaError, match="claims too many pixels"):
        decode_image(huge_png())
    with pytest.raises(MediaError, match="claims too many pixels"):
        probe(huge_png())


def test_limits_on_pixels_and_bytes(tmp_path: Path) -> None:
    data = image_bytes(picture())
    with pytest.raises(MediaError, match="claims 16x12 pixels, the limit is 191"):
        decode_image(data, MediaLimits(pixels=191))
    path = tmp_path / "a.png"
    path.write_bytes(data)
    assert probe(path) == probe(data)
    with pytest.raises(MediaError, match="file of 101 bytes, the limit is 100"):
        probe(path, MediaLimits(bytes=100))


@pytest.mark.parametrize("data", [b"", b"hello", b"#EXTM3U\nfile:///etc/passwd", b"GIF89a" + bytes(20)])
def test_other_files_are_refused(data: bytes) -> None:
    with pytest.raises(MediaError, match=r"not a JPEG|empty file|header is not that of a GIF file"):
        probe(data)


@settings(max_examples=140, deadline=None)
@given(
    format=st.sampled_from(["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"]),
    edits=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=20),
    keep=st.floats(0.1, 1),
)
def test_damage_gives_a_picture_or_a_media_error_of_one_line(
    format: str, edits: list[tuple[float, int]], keep: float
) -> None:
    data = bytearray(image_bytes(picture(), format))
    for place, value in edits:
        data[int(place * len(data))] = value
    damaged = bytes(data[: int(keep * len(data))])
    messages = []
    for _ in range(2):
        try:
            with warnings.catch_warnings(action="ignore"):
                decode_image(damaged)
        except MediaError as error:
            messages.append(str(error))
    assert len(set(messages)) <= 1  # the reason holds no address, so it is the same every time
    assert all("\n" not in message and message for message in messages)


def test_resize_covers_and_crops_the_centre() -> None:
    pixels = np.zeros((8, 24, 3), np.uint8)
    pixels[:, 8:16] = 200
    assert (resize_crop(pixels, 8, 8) == 200).all()
    assert (resize_crop(pixels, 8, 8, position=(0.5, 0.0)) == 0).all()
    assert (resize_crop(pixels, 4, 4)[:, 1:3] > 190).all()  # the filter reaches over the edge of the crop
    left_of_centre = resize_crop(pixels, 8, 8, position=(0.0, 0.25))
    assert np.array_equal(resize_crop(pixels, 8, 8, (0.0, 0.25), flip=True), left_of_centre[:, ::-1])


def test_resize_keeps_pixels_where_nothing_changes_and_averages_where_it_shrinks() -> None:
    assert np.array_equal(resize_crop(picture(), 12, 16), picture())
    stripes = np.zeros((16, 16, 3), np.uint8)
    stripes[:, ::2] = 254
    shrunk = resize_crop(stripes, 4, 4)[:, 1:3].astype(int)
    assert np.abs(shrunk - 127).max() <= 1  # without antialiasing: 0 or 254


def test_resize_treats_a_clip_frame_by_frame() -> None:
    clip = np.stack([picture(seed=1), picture(seed=2)])
    out = resize_crop(clip, 6, 6, (0.1, 0.9))
    assert out.shape == (2, 6, 6, 3)
    assert np.array_equal(out[1], resize_crop(clip[1], 6, 6, (0.1, 0.9)))


def test_tensor_round_trip_is_exact_and_in_range() -> None:
    pixels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, -1)
    x = to_tensor(pixels)
    assert (x.shape, x.dtype) == ((3, 1, 16, 16), torch.float32)
    assert (x.min().item(), x.max().item()) == (-1.0, 1.0)
    assert np.array_equal(from_tensor(x), pixels)
    assert np.array_equal(from_tensor(torch.stack([x, x])), np.stack([pixels, pixels]))


def test_from_tensor_clamps_and_rounds() -> None:
    x = torch.tensor([-2.0, -1.0, 0.0, 0.0118, 1.0, 3.0]).reshape(1, 1, 1, 6)
    assert from_tensor(x).ravel().tolist() == [0, 0, 128, 129, 255, 255]
