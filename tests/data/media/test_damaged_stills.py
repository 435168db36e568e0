"""Damaged pictures, and damaged metadata, which is no damage to the picture.

Run: pytest tests/data/media/test_damaged_stills.py
"""

import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from data.media.formats import MediaError
from data.media.images import check, decode_image, probe
from tests.data.colours import chunk, deep_png, profile, with_chunk
from tests.data.media.still_cases import PICTURE, saved
from tests.data.samples import image_bytes


def rows_of(png: bytes) -> bytes:
    at = png.index(b"IDAT")
    return zlib.decompress(png[at + 4 : at + 4 + int.from_bytes(png[at - 4 : at], "big")])


@pytest.mark.parametrize("depth", [8, 16])
def test_a_png_of_too_few_rows_is_damaged(depth: int) -> None:
    whole = image_bytes(PICTURE) if depth == 8 else deep_png(PICTURE.astype(np.uint16) * 257)
    at, rows = whole.index(b"IDAT") - 4, rows_of(whole)
    cut = whole[:at] + chunk(b"IDAT", zlib.compress(rows[: len(rows) // 2])) + chunk(b"IEND", b"")
    with pytest.raises(MediaError, match=r"the last [0-9]+ bytes of its pixels are not there"):
        check(cut)
    black = np.zeros_like(PICTURE)
    for mode in ("RGB", "L", "1", "P", "RGBA"):
        assert check(saved(Image.fromarray(black).convert(mode), "PNG")).width == 64


def test_a_png_whose_pixels_changed_is_damaged() -> None:
    damaged = bytearray(image_bytes(PICTURE))
    damaged[damaged.index(b"IDAT") + 100] ^= 1
    with pytest.raises(MediaError, match="its chunk IDAT is not as it was written"):
        check(bytes(damaged))


def test_a_jpeg_that_ends_early_is_damaged() -> None:
    data = image_bytes(np.random.default_rng(0).integers(0, 256, (96, 128, 3)).astype(np.uint8), "JPEG")
    assert check(data).height == 96
    with pytest.raises(MediaError, match="its last rows are not there"):
        check(data[: len(data) // 2] + b"\xff\xd9")
    for mode in ("RGB", "L", "CMYK"):
        assert check(saved(Image.new(mode, (33, 17)), "JPEG")).width == 33
        assert check(saved(Image.new(mode, (33, 17)), "JPEG", progressive=True)).width == 33


def test_a_jpeg_without_its_last_passes_is_damaged() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (96, 128, 3)).astype(np.uint8)
    data = image_bytes(noise, "JPEG", progressive=True)
    assert check(data).height == 96
    for cut in (data.rindex(b"\xff\xda"), len(data) // 2):
        with pytest.raises(MediaError, match="its last passes, which refine it, are not there"):
            check(data[:cut] + b"\xff\xd9")


def test_metadata_is_no_damage() -> None:
    text = PngImagePlugin.PngInfo()
    text.add_text("parameters", "x" * (70 * 2**20), zip=True)
    cases = {
        "large text": saved(Image.fromarray(PICTURE), "PNG", pnginfo=text),
        "damaged ICC profile": image_bytes(PICTURE, "PNG", icc_profile=b"no profile" * 100),
        "damaged iCCP": with_chunk(image_bytes(PICTURE), chunk(b"iCCP", b"name\0\0not deflated")),
        "damaged gAMA": with_chunk(image_bytes(PICTURE), chunk(b"gAMA", bytes(4))[:-1] + b"x"),
        "ICC profile for other pixels": image_bytes(PICTURE, "PNG", icc_profile=profile(b"GRAY")),
        "damaged EXIF": with_chunk(image_bytes(PICTURE), chunk(b"eXIf", b"MM\0*\0\0\0\x08\xff")),
    }
    for said, data in cases.items():
        assert np.array_equal(decode_image(data), PICTURE), said
        check(data)
        assert probe(data).found == {"ignored": said}
    broken = saved(
        Image.fromarray(PICTURE), "JPEG", quality=95, exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"z" * 9
    )
    assert decode_image(broken).shape == PICTURE.shape
