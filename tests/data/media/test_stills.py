"""Pictures: kinds by content, ICC profiles and codes of colours, alpha, depth, metadata that is no damage."""

import io
import os
import struct
import zlib

import av
import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps, PngImagePlugin

from data.media.formats import MediaError, suffix_of
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
from tests.data.rare_stills import bitmap, one_animated, tiff, tiled_tiff, twelve_bits, with_property
from tests.data.samples import image_bytes

Y, X = np.mgrid[:48, :64]
PICTURE = np.stack(
    [128 + 100 * np.sin(0.1 * X + 0.05 * Y), 128 + 100 * np.cos(0.07 * Y), 128 + 90 * np.sin(0.2 * X)], -1
).astype(np.uint8)
KINDS = {
    "jpg": "JPEG",
    "png": "PNG",
    "webp": "WEBP",
    "gif": "GIF",
    "bmp": "BMP",
    "tif": "TIFF",
    "avif": "AVIF",
}
EXACT = {"PNG": {}, "TIFF": {}, "WEBP": {"lossless": True}, "BMP": {}}


def saved(image: Image.Image, format: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def heif(pixels: np.ndarray, **options: object) -> bytes:
    import pillow_heif

    mode = {(3, 1): "RGB", (4, 1): "RGBA", (3, 2): "RGB;16"}[pixels.shape[-1], pixels.itemsize]
    made = pillow_heif.from_bytes(mode, pixels.shape[1::-1], pixels.tobytes())
    file = io.BytesIO()
    made.save(file, quality=-1, chroma=444, **options)
    return file.getvalue()


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


def by_pillow(pixels: np.ndarray, data: bytes) -> np.ndarray:
    """Convert a picture with LittleCMS as a caller of Pillow would."""
    source = ImageCms.ImageCmsProfile(io.BytesIO(data))
    image = ImageCms.profileToProfile(
        Image.fromarray(pixels), source, ImageCms.createProfile("sRGB"), outputMode="RGB"
    )
    return np.asarray(image).astype(int)


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


@pytest.mark.parametrize("format", ["PNG", "TIFF", "WEBP"])
def test_alpha_is_laid_over_white(format: str) -> None:
    clear = np.dstack([PICTURE, (X * 4).astype(np.uint8)])
    opacity = clear[..., 3:] / 255
    data = saved(Image.fromarray(clear), format, **EXACT[format])
    assert np.abs(decode_image(data) - (PICTURE * opacity + 255 * (1 - opacity))).max() <= 0.5
    assert probe(data).found["alpha"] == "transparent"


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


def test_further_pictures_in_a_jpeg_are_told() -> None:
    file = io.BytesIO()
    picture = Image.fromarray(PICTURE)
    picture.save(file, "MPO", save_all=True, append_images=[picture.rotate(180)])
    assert probe(file.getvalue()).found == {"pages": "1 of 2"}


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


def test_heif_is_cut_by_its_clean_aperture() -> None:
    pytest.importorskip("pillow_heif", reason="optional: pip install longtake[heif]")
    clap = b"clap" + struct.pack(">4I", 40, 1, 24, 1) + struct.pack(">iIiI", 4, 1, -6, 1)
    cut = with_property(heif(PICTURE, matrix_coefficients=0), clap)
    assert np.array_equal(decode_image(cut), PICTURE[6:30, 16:56])


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


def test_a_gamma_that_cannot_be_meant_is_passed_over() -> None:
    data = with_chunk(image_bytes(PICTURE), chunk(b"gAMA", struct.pack(">I", 4_000_000_000)))
    assert probe(data).found["ignored"] == "impossible gAMA"
    assert np.array_equal(decode_image(data), PICTURE)


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


def test_pages_of_a_tiff_are_told() -> None:
    page = Image.fromarray(PICTURE)
    data = saved(page, "TIFF", save_all=True, append_images=[page, page])
    assert probe(data).found == {"kind": "TIFF", "pages": "1 of 3"}
    assert np.array_equal(decode_image(data), PICTURE)


def hdr_avif(light: np.ndarray) -> bytes:
    """Make a picture of 10 bits in PQ, a row of grey patches of 16 pixels; light: cd/m2."""
    frame = patches(pq(light)[:, None].repeat(3, 1), 9, "yuv420p10le")
    file = io.BytesIO()
    try:
        with av.open(file, "w", format="avif") as out:
            stream = out.add_stream("libsvtav1", rate=1, options={"crf": "8", "preset": "10"})
            stream.width, stream.height, stream.pix_fmt = frame.width, frame.height, "yuv420p10le"
            context = stream.codec_context
            context.color_primaries, context.color_trc, context.colorspace, context.color_range = 9, 16, 9, 1
            frame.color_primaries, frame.color_trc, frame.pts = 9, 16, 0
            out.mux(stream.encode(frame))
            out.mux(stream.encode())
    finally:  # for root SVT-AV1 gives the calling thread real-time priority, over everything else here
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
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
