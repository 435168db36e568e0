"""Pictures of which Pillow draws a part otherwise than the file says: what lies over others, or is clear."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from data.media.formats import MediaError
from data.media.images import check, decode_image, decode_media
from tests.data.colours import chunk, png_of
from tests.data.rare_stills import palette_of_bytes
from tests.data.samples import picture

LARGE, SMALL = picture(24, 32, 1), picture(8, 8, 2)


def clear(pixels: np.ndarray, alpha: int) -> np.ndarray:
    return np.dstack([pixels, np.full(pixels.shape[:2], alpha, np.uint8)])


def animated(dispose: int, blend: int, left: int = 16) -> bytes:
    """Return a PNG of three pictures: an opaque one, and twice a half clear one at other places."""
    parts = [(clear(LARGE, 255), 0, 0), (clear(SMALL, 128), left, 8), (clear(SMALL, 128), 12, 4)]
    chunks = [chunk(b"IHDR", struct.pack(">IIBBBBB", 32, 24, 8, 6, 0, 0, 0))]
    chunks.append(chunk(b"acTL", struct.pack(">II", len(parts), 0)))
    for number, (pixels, x, y) in enumerate(parts):
        height, width = pixels.shape[:2]
        place = max(0, 2 * number - 1)  # among the chunks of the animation, to which IDAT does not belong
        control = place, width, height, x, y, 1, 20, dispose if number else 0, blend if number else 0
        chunks.append(chunk(b"fcTL", struct.pack(">IIIIIHHBB", *control)))
        rows = zlib.compress(b"".join(b"\0" + row.tobytes() for row in pixels))
        again = chunk(b"fdAT", struct.pack(">I", place + 1) + rows)
        chunks.append(again if number else chunk(b"IDAT", rows))
    return png_of(*chunks)


def laid(below: np.ndarray, x: int, y: int) -> np.ndarray:
    """Lay the half clear picture over an opaque one."""
    shown = below.copy()
    part = shown[y : y + 8, x : x + 8].astype(float)
    shown[y : y + 8, x : x + 8] = np.rint(part + (SMALL - part) * 128 / 255)
    return shown


@pytest.mark.parametrize("dispose", [0, 1, 2])
def test_half_clear_pictures_of_a_png_lie_over_what_is_below(dispose: int) -> None:
    data = animated(dispose, blend=1)
    media = check(data)
    second = laid(LARGE, 16, 8)
    below = [second, second.copy(), LARGE][dispose]
    if dispose == 1:  # cleared, and white is behind
        below[8:16, 16:24] = 255
    third = laid(below, 12, 4)
    pixels = decode_media(data, frames=(0, 3, 1), size=(24, 32))
    assert (media.frames, media.duration.as_integer_ratio()) == (3, (3, 20))
    assert "half clear pictures, since media rules 4" in media.found["rules"]
    for shown, expected in zip(pixels, (LARGE, second, third), strict=True):
        outside = np.ones((24, 32), bool)
        if dispose == 1:  # of what lies over nothing, half of white shows through
            outside[8:12, 16:20] = False
        assert np.abs(shown.astype(int) - expected)[outside].max() <= 1


def test_a_picture_beyond_the_canvas_of_a_png_is_named() -> None:
    with pytest.raises(MediaError, match="damaged image"):
        check(animated(0, blend=1, left=30))


def test_pictures_that_replace_others_are_left_to_pillow() -> None:
    assert "rules" not in check(animated(0, blend=0)).found


def test_what_no_picture_of_a_webp_covers_is_white() -> None:
    file = io.BytesIO()
    whole = np.zeros((24, 32, 4), np.uint8)
    whole[8:16, 16:24] = clear(SMALL, 255)
    moved = np.roll(whole, -8, axis=1)
    first, second = Image.fromarray(whole), Image.fromarray(moved)
    first.save(
        file, "WEBP", save_all=True, append_images=[second], duration=100, lossless=True, kmin=0, kmax=0
    )
    data = file.getvalue()
    assert not data[20] & 0x10  # libwebp writes opaque pictures of a part, and says that there is no alpha
    media = check(data)
    pixels = decode_media(data, frames=(0, 2, 1), size=(24, 32))
    assert "leaves some of its canvas free" in media.found["rules"]
    assert np.array_equal(pixels[0, 8:16, 16:24], SMALL)
    assert np.array_equal(pixels[1, 8:16, 8:16], SMALL)
    assert (pixels[:, :8] == 255).all()


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_one_clear_grey_of_few_bits_is_clear(bits: int) -> None:
    most, count = 2**bits - 1, 8 // bits
    codes = np.arange(16).reshape(1, 16).repeat(4, 0) % (most + 1)
    shifts = np.arange(bits - 1, -1, -1)
    rows = np.packbits((codes[..., None] >> shifts & 1).astype(np.uint8).reshape(4, -1), axis=1)
    assert rows.shape == (4, 16 // count)
    header = struct.pack(">IIBBBBB", 16, 4, bits, 0, 0, 0, 0)
    packed = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    data = png_of(chunk(b"IHDR", header), chunk(b"tRNS", b"\0\1"), chunk(b"IDAT", packed))
    expected = np.where(codes == 1, 255, codes * 255 // most)
    assert np.array_equal(decode_image(data)[..., 0], expected)
    assert ("rules" in check(data).found) == (bits in (2, 4))


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_one_clear_grey_of_few_bits_is_clear_in_films_too(bits: int) -> None:
    most = 2**bits - 1
    codes = np.arange(16).reshape(1, 16).repeat(4, 0) % (most + 1)
    shifts = np.arange(bits - 1, -1, -1)

    def rows(codes: np.ndarray) -> bytes:
        packed = np.packbits((codes[..., None] >> shifts & 1).astype(np.uint8).reshape(4, -1), axis=1)
        return zlib.compress(b"".join(b"\0" + row.tobytes() for row in packed))

    def control(number: int, blend: int) -> tuple[bytes, bytes]:
        return b"fcTL", struct.pack(">IIIIIHHBB", number, 16, 4, 0, 0, 1, 20, 0, blend)

    data = b"\x89PNG\r\n\x1a\n" + b"".join(
        chunk(*each)
        for each in (
            (b"IHDR", struct.pack(">IIBBBBB", 16, 4, bits, 0, 0, 0, 0)),
            (b"acTL", struct.pack(">II", 2, 0)),
            (b"tRNS", b"\0\1"),
            control(0, 0),
            (b"IDAT", rows(np.zeros_like(codes))),
            control(1, 1),
            (b"fdAT", struct.pack(">I", 2) + rows(codes)),
            (b"IEND", b""),
        )
    )
    shown = decode_media(data, frames=(0, 2, 1), size=(4, 16))[1, ..., 0]
    assert np.array_equal(shown, np.where(codes == 1, 0, codes * 255 // most))


def test_a_tiff_palette_of_bytes_is_not_black() -> None:
    colours = np.array([[10, 200, 30], [250, 0, 90]], np.uint8)
    data = palette_of_bytes(np.array([[0, 1, 1], [1, 0, 0]], np.uint8), colours)
    assert np.array_equal(decode_image(data), colours[[[0, 1, 1], [1, 0, 0]]])
    assert "palette of 8 bits" in check(data).found["rules"]
