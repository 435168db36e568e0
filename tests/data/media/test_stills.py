"""Pictures: kinds by content, orientation, alpha, pages, cropping and the shape of pixels."""

import io
import struct

import numpy as np
import pytest
from PIL import Image, ImageOps

from data.media.formats import MediaError, suffix_of
from data.media.images import check, decode_image, probe
from tests.data.colours import chunk, with_chunk
from tests.data.media.still_cases import EXACT, KINDS, PICTURE, X, saved
from tests.data.rare_stills import one_animated, with_property
from tests.data.samples import image_bytes


@pytest.mark.parametrize("suffix", KINDS)
def test_every_kind_is_told_by_its_content(suffix: str) -> None:
    data = image_bytes(PICTURE, KINDS[suffix])
    assert suffix_of(data) == suffix
    assert probe(data)[:4] == check(data)[:4] == (64, 48, 1, 0.0)
    theirs = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    assert np.array_equal(decode_image(data), theirs)
    assert probe(data).found.get("kind", KINDS[suffix]) == KINDS[suffix]


@pytest.mark.parametrize(
    ("head", "named"),
    [
        (b"\xff\x0a" + bytes(30), "is a JPEG XL file, not a JPEG, PNG, .*: save it as PNG or JPEG"),
        (b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(30), "JPEG XL"),
        (b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(30), "JPEG 2000"),
        ((b"G" + bytes(187)) * 4, "MPEG-TS file.*ffmpeg"),
        ((bytes(4) + b"G" + bytes(187)) * 4, "MPEG-TS file"),
        (b"\0\0\x01\xba" + bytes(30), "MPEG program stream"),
        (b"\0\0\0\x01\x67\x64" + bytes(30), "raw H.264 or HEVC stream.*libx264"),
        (b"II*\0\x10\0\0\0CR\x02\0" + bytes(20), "raw photograph.*develop"),
        (b"\0\0\0\x18ftypcrx \0\0\0\x01crx isom", "raw photograph"),
        (b"\0\0\0\x18ftyphevc\0\0\0\0mif1hevc", "HEIF image sequence"),
        (b"FLV\x01" + bytes(20), "Flash"),
        (b"version https://git-lfs.github.com/spec/v1", "Git LFS pointer.*git lfs pull"),
        (b"<!DOCTYPE html><html>404", "web page.*fetched instead"),
        (b"%PDF-1.4", "is a PDF file"),
        (b"DKIF\0\0 \0AV01", "is an IVF file.*-c copy"),
        (b"YUV4MPEG2 W16 H16\n", "is a YUV4MPEG file"),
        (b"P6\n16 16\n255\n", "is a portable pixel map file"),
        (b"\0\0\1\0\1\0\x10\x10", "is a Windows icon file"),
        (b"\xff\xd8\xff\xf7\0\x0b\x08\0\x10\0\x10\1\1\x11\0", "is a JPEG-LS, which is not read"),
        (b"\xff\xd8\xff\xc1\0\x0b\x0c\0\x10\0\x10\1\1\x11\0", "is a JPEG of 12 bits"),
        (b"GIF97a" + bytes(20), "not a JPEG, PNG"),
    ],
)
def test_kinds_that_are_not_read_are_named(head: bytes, named: str) -> None:
    with pytest.raises(MediaError, match=named):
        probe(head)


@pytest.mark.parametrize(
    ("brands", "suffix"),
    [
        (b"avif\0\0\0\0mif1miaf", "avif"),
        (b"mif1\0\0\0\0avifmiaf", "avif"),
        (b"avis\0\0\0\0msf1iso8", "avif"),
        (b"heic\0\0\0\0mif1heic", "heic"),
        (b"mif1\0\0\0\0heicmiaf", "heic"),
        (b"isom\0\0\x02\0isomavc1", "mp4"),
        (b"qt  \0\0\0\0qt  mif1", "mp4"),
    ],
)
def test_brands_tell_pictures_from_films(brands: bytes, suffix: str) -> None:
    assert suffix_of(struct.pack(">I", 8 + len(brands)) + b"ftyp" + brands + bytes(8)) == suffix


def test_a_large_box_of_mp4_is_no_raw_stream() -> None:
    assert suffix_of(b"\0\0\1\0ftypisom" + bytes(300)) == "mp4"  # 256 bytes long, as an icon begins
    assert suffix_of(b"\0\0\0\x01mdat" + bytes(16)) == "mp4"  # 1: its size stands behind its name


def test_a_raw_photograph_is_not_packed_as_its_preview() -> None:
    data = saved(Image.fromarray(PICTURE), "TIFF", tiffinfo={254: 1})
    with pytest.raises(MediaError, match="a preview, as in raw photographs"):
        probe(data)
    floats = saved(Image.fromarray(PICTURE[..., 0].astype(np.float32)), "TIFF")
    with pytest.raises(MediaError, match="32-bit samples whose range nothing says: 8 or 16 bits"):
        probe(floats)


@pytest.mark.parametrize("format", ["TIFF", "AVIF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_once(format: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = saved(Image.fromarray(PICTURE), format, exif=exif)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    assert np.array_equal(decode_image(data), expected)
    assert probe(data)[:2] == expected.shape[1::-1]


@pytest.mark.parametrize("format", ["PNG", "TIFF", "WEBP"])
def test_alpha_is_laid_over_white(format: str) -> None:
    clear = np.dstack([PICTURE, (X * 4).astype(np.uint8)])
    opacity = clear[..., 3:] / 255
    data = saved(Image.fromarray(clear), format, **EXACT[format])
    assert np.abs(decode_image(data) - (PICTURE * opacity + 255 * (1 - opacity))).max() <= 0.5
    assert probe(data).found["alpha"] == "transparent"


def test_further_pictures_in_a_jpeg_are_told() -> None:
    file = io.BytesIO()
    picture = Image.fromarray(PICTURE)
    picture.save(file, "MPO", save_all=True, append_images=[picture.rotate(180)])
    assert probe(file.getvalue()).found == {"pages": "1 of 2"}


@pytest.mark.parametrize("progressive", [False, True])
def test_what_lies_behind_a_jpeg_is_told(progressive: bool) -> None:
    one = saved(Image.fromarray(PICTURE), "JPEG", progressive=progressive)
    film = b"\0\0\0\x18ftypmp42\0\0\0\0isommp42"
    assert "behind" not in probe(one + b"\0" * 100).found
    assert probe(one + film).found["behind"] == "a film, not used"  # a photograph that moves
    assert probe(one + one).found["behind"] == "1 further picture, not used"
    assert probe(one + one + one + b"x").found["behind"] == "2 further pictures, not used"


def test_a_png_of_one_animated_picture_shows_that_one() -> None:
    data = one_animated(PICTURE)
    assert check(data).frames == 1
    assert np.array_equal(decode_image(data), PICTURE)


@pytest.mark.parametrize("turn", [0, 1])
def test_a_clean_aperture_of_avif_is_cut_off_before_it_is_turned(turn: int) -> None:
    plain = image_bytes(PICTURE, "AVIF", quality=100, subsampling="4:4:4")
    clap = b"clap" + struct.pack(">4I", 40, 1, 24, 1) + struct.pack(">iIiI", 4, 1, -6, 1)
    cut = with_property(plain, clap)
    shown = decode_image(plain)[6:30, 16:56]
    if turn:
        cut, shown = with_property(cut, b"irot\1"), np.rot90(shown)
    assert check(cut)[:2] == probe(cut)[:2] == shown.shape[1::-1]
    assert np.array_equal(decode_image(cut), shown)
    assert probe(cut).found["cropping"] == "left 16 top 6 right 8 bottom 18"
    assert probe(cut).found["rules"] == "an AVIF with a clean aperture, since media rules 2"


def oblong() -> dict[str, bytes]:
    """Return pictures whose pixels are twice as wide as high, as each kind says it."""
    jpeg = bytearray(image_bytes(PICTURE, "JPEG"))
    at = jpeg.index(b"JFIF\0") + 7
    jpeg[at : at + 5] = struct.pack(">BHH", 0, 2, 1)
    gif = bytearray(image_bytes(PICTURE, "GIF"))
    gif[12] = 128 - 15
    return {
        "jfif": bytes(jpeg),
        "dots": image_bytes(PICTURE, "JPEG", dpi=(72, 144)),
        "phys": with_chunk(image_bytes(PICTURE), chunk(b"pHYs", struct.pack(">IIB", 1, 2, 0))),
        "tiff": saved(Image.fromarray(PICTURE), "TIFF", x_resolution=72, y_resolution=144, resolution_unit=2),
        "gif": bytes(gif),
        "avif": with_property(image_bytes(PICTURE, "AVIF"), b"pasp" + struct.pack(">II", 2, 1)),
    }


@pytest.mark.parametrize("kind", ["jfif", "dots", "phys", "tiff", "gif", "avif"])
def test_pixels_that_are_declared_oblong_are_shown_square_and_said(kind: str) -> None:
    data = oblong()[kind]
    assert check(data).found["pixel_shape"] == "2:1"
    assert decode_image(data).shape == PICTURE.shape


def test_pages_of_a_tiff_are_told() -> None:
    page = Image.fromarray(PICTURE)
    data = saved(page, "TIFF", save_all=True, append_images=[page, page])
    assert probe(data).found == {"kind": "TIFF", "pages": "1 of 3"}
    assert np.array_equal(decode_image(data), PICTURE)
