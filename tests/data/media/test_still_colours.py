"""Colours of pictures: ICC profiles, codes in PNG and AVIF, Adobe RGB of a camera, inks, HDR.

Run: pytest tests/data/media/test_still_colours.py
"""

import io
import struct

import av
import numpy as np
import pytest
from PIL import Image, ImageCms

from data.media.film.codecs import kept_priority
from data.media.formats import MediaError
from data.media.images import check, decode_image, probe
from tests.data.colours import (
    chunk,
    deep_png,
    patches,
    pq,
    profile,
    srgb_code,
    srgb_light,
    with_chunk,
)
from tests.data.media.still_cases import EXACT, PICTURE, by_pillow, saved
from tests.data.rare_stills import bitmap
from tests.data.samples import image_bytes


@pytest.mark.parametrize("format", ["PNG", "TIFF", "WEBP"])
def test_an_icc_profile_is_converted_as_pillow_does(format: str) -> None:
    p3 = profile()
    data = saved(Image.fromarray(PICTURE), format, icc_profile=p3, **EXACT[format])
    expected = by_pillow(PICTURE, p3)
    assert np.array_equal(decode_image(data), expected)
    assert np.abs(expected - PICTURE).max() > 50
    assert probe(data).found["profile"] == "measured"
    assert np.array_equal(decode_image(data, colour="keep"), PICTURE)
    with pytest.raises(MediaError, match="has the ICC profile 'measured', and colour=refuse"):
        check(data, colour="refuse")


def test_profiles_of_grey_of_alpha_and_of_srgb() -> None:
    linear = profile(b"GRAY", 1.0)
    grey = PICTURE[..., 0]
    data = image_bytes(grey, "PNG", icc_profile=linear)
    assert np.array_equal(decode_image(data), by_pillow(grey, linear))
    clear = image_bytes(np.dstack([grey, np.full_like(grey, 255)]), "PNG", icc_profile=linear)
    assert np.array_equal(decode_image(clear), decode_image(data))
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    plain = image_bytes(PICTURE, "PNG", icc_profile=srgb)
    assert np.array_equal(decode_image(plain), PICTURE)
    assert probe(plain).found == {}
    decode_image(plain, colour="refuse")


def test_inks_without_a_profile_are_read_as_pillow_does_and_said() -> None:
    data = saved(Image.fromarray(PICTURE).convert("CMYK"), "JPEG", quality=95)
    assert np.array_equal(decode_image(data), np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))
    assert probe(data).found == {"profile": "none, of CMYK"}


def test_png_codes_take_the_place_of_a_profile() -> None:
    light = np.array([0, 1, 10, 50, 100, 203, 1000.0])
    codes = np.round(65535 * pq(light)).astype(np.uint16)[None, :, None].repeat(4, 0).repeat(3, 2)
    data = deep_png(codes, chunk(b"cICP", bytes([9, 16, 0, 1])))
    assert np.abs(decode_image(data)[0, :, 0] - srgb_code(light / 203)).max() <= 1
    assert probe(data).found == {"colour": "BT.2020, PQ", "depth": "16 bits"}
    linear = with_chunk(image_bytes(PICTURE), chunk(b"gAMA", struct.pack(">I", 100000)))
    assert np.abs(decode_image(linear) - srgb_code(PICTURE / 255)).max() <= 1
    usual = with_chunk(image_bytes(PICTURE), chunk(b"gAMA", struct.pack(">I", 45455)))
    assert np.array_equal(decode_image(usual), PICTURE)
    stated = with_chunk(linear, chunk(b"sRGB", b"\0"))
    assert np.array_equal(decode_image(stated), PICTURE)


def test_a_camera_that_says_adobe_rgb_in_exif() -> None:
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0xA001] = 2
    data = saved(Image.fromarray(PICTURE), "JPEG", quality=100, subsampling=0, exif=exif)
    stored = np.asarray(Image.open(io.BytesIO(data))) / 255
    to_srgb = np.array([[1.3984, -0.3984, 0], [0, 1, 0], [0, -0.0429, 1.0429]])
    expected = srgb_code(stored ** (563 / 256) @ to_srgb.T)
    assert np.abs(decode_image(data) - expected).max() <= 1
    assert probe(data).found == {"colour": "Adobe RGB, gamma 2.2"}


def test_avif_says_its_colours_in_a_box() -> None:
    data = bytearray(image_bytes(PICTURE, "AVIF", quality=100, subsampling="4:4:4"))
    at = data.index(b"colrnclx") + 8
    data[at : at + 4] = struct.pack(">HH", 12, 13)
    plain = decode_image(image_bytes(PICTURE, "AVIF", quality=100, subsampling="4:4:4"))
    to_srgb = np.array([[1.2249, -0.2247, 0], [-0.0420, 1.0419, 0], [-0.0196, -0.0786, 1.0979]])
    expected = srgb_code(srgb_light(plain / 255) @ to_srgb.T)
    found = decode_image(bytes(data))
    assert np.abs(found - expected).mean() < 1
    assert probe(bytes(data)).found["colour"] == "Display P3, sRGB"


def test_the_profile_of_a_bmp() -> None:
    want = decode_image(image_bytes(PICTURE, icc_profile=profile()))
    assert np.array_equal(decode_image(bitmap(PICTURE, b"DEBM", profile())), want)
    assert np.array_equal(decode_image(bitmap(PICTURE, b"BGRs")), PICTURE)
    assert probe(bitmap(PICTURE, b"KNIL")).found["ignored"] == "ICC profile that is not in the file"


def test_a_profile_of_which_a_part_is_missing_is_counted() -> None:
    data = image_bytes(PICTURE, "JPEG", icc_profile=profile())
    at = data.index(b"ICC_PROFILE\0") + 12
    assert data[at : at + 2] == b"\1\1"
    data = data[:at] + b"\2\2" + data[at + 2 :]  # the second of two
    assert probe(data).found == {"ignored": "damaged ICC profile"}


def test_a_gamma_that_cannot_be_meant_is_passed_over() -> None:
    data = with_chunk(image_bytes(PICTURE), chunk(b"gAMA", struct.pack(">I", 4_000_000_000)))
    assert probe(data).found["ignored"] == "impossible gAMA"
    assert np.array_equal(decode_image(data), PICTURE)


def hdr_avif(light: np.ndarray) -> bytes:
    """Make a picture of 10 bits in PQ, a row of grey patches of 16 pixels; light: cd/m2."""
    frame = patches(pq(light)[:, None].repeat(3, 1), 9, "yuv420p10le")
    file = io.BytesIO()
    with kept_priority(), av.open(file, "w", format="avif") as out:
        stream = out.add_stream("libsvtav1", rate=1, options={"crf": "8", "preset": "10"})
        stream.width, stream.height, stream.pix_fmt = frame.width, frame.height, "yuv420p10le"
        context = stream.codec_context
        context.color_primaries, context.color_trc, context.colorspace, context.color_range = 9, 16, 9, 1
        frame.color_primaries, frame.color_trc, frame.pts = 9, 16, 0
        out.mux(stream.encode(frame))
        out.mux(stream.encode())
    return file.getvalue()


def test_hdr_avif_is_read_from_its_own_depth() -> None:
    light = np.array([0, 1, 10, 50, 100, 203, 1000.0])
    data = hdr_avif(light)
    assert probe(data).found == {"kind": "AVIF", "colour": "BT.2020, PQ"}
    assert np.abs(decode_image(data)[16, 8::16, 1] - srgb_code(light / 203)).max() <= 2
    clear = bytearray(image_bytes(np.dstack([PICTURE, PICTURE[..., :1]]), "AVIF"))
    at = clear.index(b"colrnclx") + 8
    clear[at : at + 4] = struct.pack(">HH", 9, 16)
    with pytest.raises(MediaError, match=r"is in BT\.2020, PQ, of which only 8 bits can be read"):
        check(bytes(clear))
    assert check(bytes(clear), colour="keep").found["colour"] == "BT.2020, PQ, kept"
