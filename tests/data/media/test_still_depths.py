"""Pictures of more than 8 bits, most of them TIFF, whose first picture or samples may be others.

Run: pytest tests/data/media/test_still_depths.py
"""

import numpy as np
import pytest
from PIL import Image

from data.media.formats import MediaError
from data.media.images import check, decode_image, probe
from tests.data.colours import deep_png
from tests.data.media.still_cases import PICTURE, X, saved
from tests.data.rare_stills import tiff, tiled_tiff, twelve_bits


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_16_bits_are_rounded_to_the_nearest_of_8(channels: int) -> None:
    codes = np.random.default_rng(0).integers(0, 65536, (20, 30, channels)).astype(np.uint16)
    eight = np.round(codes / 257)
    expected = eight
    if channels in (2, 4):
        opacity = eight[..., -1:] / 255
        expected = np.round(eight[..., :-1] * opacity + 255 * (1 - opacity))
    data = deep_png(codes)
    assert np.array_equal(decode_image(data), np.broadcast_to(expected, (20, 30, 3)))
    assert probe(data).found["depth"] == "16 bits"
    dark = deep_png(
        codes // 16 if channels in (1, 3) else np.dstack([codes[..., :-1] // 16, codes[..., -1:]])
    )
    assert probe(dark).found["depth"] == "16 bits, of which no more than 12 are used: near black"


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_deflate"])
def test_16_bit_tiff(compression: str | None) -> None:
    codes = np.random.default_rng(0).integers(0, 65536, (20, 30)).astype(np.uint16)
    data = saved(Image.fromarray(codes), "TIFF", compression=compression)
    assert np.array_equal(decode_image(data)[..., 0], np.round(codes / 257))


def test_a_tiff_of_12_bits_is_not_near_black() -> None:
    codes = X * 64
    data = tiff([twelve_bits(codes)], 12, 1)
    assert np.array_equal(decode_image(data)[..., 0], np.round(codes / 4095 * 255))
    assert probe(data).found["depth"] == "12 bits"


def test_a_tiff_of_16_bits_in_planes() -> None:
    deep = PICTURE.astype("<u2") * 257
    data = tiff([deep[..., channel].tobytes() for channel in range(3)], 16, 3, planes=True)
    assert np.array_equal(decode_image(data), PICTURE)


@pytest.mark.parametrize("bits", [8, 16])
def test_signed_tiff_is_refused(bits: int) -> None:
    with pytest.raises(MediaError, match=f"TIFF of {bits}-bit signed samples whose range nothing says"):
        check(tiff([bytes(48 * 64 * bits // 8)], bits, 1, form=2))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_tiled_tiff_of_16_bits_is_read_whole(channels: int, order: str) -> None:
    """FFmpeg, which reads the others, gives a black picture."""
    codes = np.random.default_rng(1).integers(0, 65536, (32, 48, channels)).astype(np.uint16)
    expected = np.broadcast_to(np.round(codes / 257), (32, 48, 3))
    kind = 1 if channels == 1 else 2
    data = tiled_tiff(codes, 16, order, kind)
    assert np.array_equal(decode_image(data), expected)
    assert probe(data).found["rules"] == "a TIFF of 16 bits in tiles, since media rules 3"
    assert np.array_equal(decode_image(tiled_tiff(codes, 16, order, kind, 6)), np.rot90(expected, -1))
    if (channels, order) == (1, "<"):
        assert np.array_equal(decode_image(tiled_tiff(codes, 16, order, 0)), 255 - expected)


@pytest.mark.parametrize("compression", ["tiff_zstd", "tiff_lzma", "tiff_lzw"])
def test_16_bit_tiff_in_compressions_that_ffmpeg_lacks(compression: str) -> None:
    codes = np.random.default_rng(0).integers(0, 65536, (20, 30)).astype(np.uint16)
    data = saved(Image.fromarray(codes), "TIFF", compression=compression, big_tiff=compression == "tiff_lzw")
    assert np.array_equal(decode_image(data)[..., 0], np.round(codes / 257))
