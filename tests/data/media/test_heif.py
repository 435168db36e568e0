"""HEIF pictures: turned, cut, coloured, and refused by name without their library.

Run: pytest tests/data/media/test_heif.py
"""

import io
import struct

import numpy as np
import pytest
from PIL import Image, ImageOps

from data.media.formats import MediaError, suffix_of
from data.media.images import check, decode_image, probe
from tests.data.colours import pq, profile, srgb_code
from tests.data.media.still_cases import PICTURE, X, by_pillow, saved
from tests.data.rare_stills import with_property


def heif(pixels: np.ndarray, **options: object) -> bytes:
    import pillow_heif

    mode = {(3, 1): "RGB", (4, 1): "RGBA", (3, 2): "RGB;16"}[pixels.shape[-1], pixels.itemsize]
    made = pillow_heif.from_bytes(mode, pixels.shape[1::-1], pixels.tobytes())
    file = io.BytesIO()
    made.save(file, quality=-1, chroma=444, **options)
    return file.getvalue()


@pytest.mark.heif
def test_a_heif_photograph_is_read_whole_whatever_it_is_called() -> None:
    plain = heif(PICTURE)
    assert suffix_of(plain) == "heic"
    assert probe(plain)[:4] == check(plain)[:4] == (64, 48, 1, 0.0)
    assert np.abs(decode_image(plain).astype(int) - PICTURE).max() <= 3
    large = np.kron(PICTURE, np.ones((8, 8, 1), np.uint8))
    tiled = heif(large, grid_tile_size=256)
    assert probe(tiled)[:2] == (512, 384)
    assert np.abs(decode_image(tiled).astype(int) - large).max() <= 3


@pytest.mark.heif
@pytest.mark.parametrize("orientation", range(1, 9))
def test_heif_is_turned_and_mirrored_by_its_boxes(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation  # pillow-heif writes it as irot and imir
    import pillow_heif

    file = io.BytesIO()
    made = pillow_heif.from_pillow(Image.fromarray(PICTURE))
    made.save(file, quality=-1, chroma=444, exif=exif.tobytes())
    expected = np.asarray(ImageOps.exif_transpose(_with_exif(PICTURE, exif)))
    assert probe(file.getvalue())[:2] == expected.shape[1::-1]
    assert np.abs(decode_image(file.getvalue()).astype(int) - expected).max() <= 3


def _with_exif(pixels: np.ndarray, exif: Image.Exif) -> Image.Image:
    return Image.open(io.BytesIO(saved(Image.fromarray(pixels), "PNG", exif=exif)))


@pytest.mark.heif
def test_heif_colours_alpha_and_depth() -> None:
    p3 = profile()
    tagged = saved_heif_with_profile(p3)
    assert np.abs(decode_image(tagged).astype(int) - by_pillow(PICTURE, p3)).mean() < 1
    assert probe(tagged).found["profile"] == "measured"
    clear = np.dstack([PICTURE, (X * 4).astype(np.uint8)])
    opacity = clear[..., 3:] / 255
    expected = PICTURE * opacity + 255 * (1 - opacity)
    assert np.abs(decode_image(heif(clear)) - expected).max() <= 3
    deep = np.round(65535 * pq(np.linspace(0, 203, 64)))[None, :, None].repeat(48, 0).repeat(3, 2)
    data = heif(
        deep.astype(np.uint16), color_primaries=9, transfer_characteristics=16, matrix_coefficients=9,
        full_range_flag=1,
    )  # fmt: skip
    assert probe(data).found == {"kind": "HEIF", "colour": "BT.2020, PQ", "depth": "10 bits"}
    assert np.abs(decode_image(data)[5, :, 1] - srgb_code(np.linspace(0, 1, 64))).max() <= 4


def saved_heif_with_profile(data: bytes) -> bytes:
    import pillow_heif

    image = Image.fromarray(PICTURE)
    image.info["icc_profile"] = data
    file = io.BytesIO()
    pillow_heif.from_pillow(image).save(file, quality=-1, chroma=444)
    return file.getvalue()


def test_heif_without_its_library_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(MediaError, match=r"is a HEIF picture, which needs: pip install 'longtake\[heif\]'"):
        probe(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(40))


def test_heif_is_cut_by_its_clean_aperture() -> None:
    pytest.importorskip("pillow_heif", reason="optional: pip install longtake[heif]")
    clap = b"clap" + struct.pack(">4I", 40, 1, 24, 1) + struct.pack(">iIiI", 4, 1, -6, 1)
    cut = with_property(heif(PICTURE, matrix_coefficients=0), clap)
    assert np.array_equal(decode_image(cut), PICTURE[6:30, 16:56])
