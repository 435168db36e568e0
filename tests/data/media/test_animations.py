"""Animated pictures are films with the times that their files give."""

import io
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

from data.media.formats import MediaError, MediaLimits
from data.media.images import check, decode_image, decode_media, probe
from tests.data.samples import picture

DELAYS = [100, 200, 100, 400, 200]  # milliseconds
AT_10 = [0, 1, 1, 2, 3, 3, 3, 3, 4, 4]  # what is on screen at tenths of a second
OPTIONS = {"GIF": {}, "WEBP": {"lossless": True}, "PNG": {}, "AVIF": {"quality": 100, "subsampling": "4:4:4"}}


def animation(format: str, delays: list[int] = DELAYS, **options: object) -> bytes:
    frames = [Image.fromarray(np.roll(picture(24, 32), 5 * n, 1)) for n in range(len(delays))]
    file = io.BytesIO()
    given = {**OPTIONS[format], "duration": delays, **options}
    frames[0].save(file, format, save_all=True, append_images=frames[1:], **given)
    return file.getvalue()


@pytest.mark.parametrize("format", OPTIONS)
def test_frames_and_times_are_those_of_the_file(format: str) -> None:
    data = animation(format)
    media = probe(data)
    assert media == check(data)
    assert (media.width, media.height, media.frames, media.fps) == (32, 24, 5, 5.0)
    assert media.duration == 1
    assert media.found["kind"] == f"animated {format}"
    with Image.open(io.BytesIO(data)) as image:
        theirs = []
        for number in range(5):
            image.seek(number)
            theirs.append(np.asarray(image.convert("RGB")))
    frames = decode_media(data, frames=(0, 5, 1))
    assert np.array_equal(frames, theirs)
    assert np.array_equal(decode_media(data, frames=(1, 2, 2)), frames[1:4:2])
    assert np.array_equal(decode_media(data, frames=(0, 10, 1), fps=10), frames[AT_10])
    assert np.array_equal(decode_media(data, frames=(2, 3, 2), fps=10), frames[AT_10][2:7:2])
    assert np.array_equal(decode_image(data), frames[0])
    with pytest.raises(MediaError, match="has 5 frames, 6 are needed"):
        decode_media(data, frames=(0, 6, 1))


def test_one_frame_is_a_picture() -> None:
    assert probe(animation("GIF", [100]))[:4] == (32, 24, 1, 0.0)


def test_the_picture_that_stands_for_a_png_is_no_frame_of_its_film() -> None:
    data = animation("PNG", default_image=True, duration=DELAYS[1:])
    assert probe(data).frames == 4
    assert np.array_equal(decode_media(data)[0], np.roll(picture(24, 32), 5, 1))


def test_delays_up_to_10_ms_count_as_100_as_browsers_show_them() -> None:
    assert probe(animation("GIF", [10, 10])).fps == 10
    assert probe(animation("GIF", [20, 20])).fps == 50


def test_clear_parts_of_a_gif_show_what_was_there_before_over_white() -> None:
    base = np.zeros((8, 8, 4), np.uint8)
    base[:4] = (255, 0, 0, 255)
    patch = np.zeros((8, 8, 4), np.uint8)
    patch[6:] = (0, 0, 255, 255)
    file = io.BytesIO()
    Image.fromarray(base).save(
        file, "GIF", save_all=True, append_images=[Image.fromarray(patch)], duration=[100, 100], disposal=1
    )
    frames = decode_media(file.getvalue(), frames=(0, 2, 1))
    assert frames[0, [0, 5, 7], 0].tolist() == [[255, 0, 0], [255, 255, 255], [255, 255, 255]]
    assert frames[1, [0, 5, 7], 0].tolist() == [[255, 0, 0], [255, 255, 255], [0, 0, 255]]
    assert probe(file.getvalue()).found["alpha"] == "transparent"


def test_limits_hold_for_animations() -> None:
    with pytest.raises(MediaError, match="has more than 4 frames"):
        probe(animation("GIF"), MediaLimits(frames=4))
    with pytest.raises(MediaError, match="lasts more than"):
        probe(animation("GIF"), MediaLimits(seconds=0.5))
    with pytest.raises(MediaError, match="decoded clip of"):
        decode_media(animation("GIF"), MediaLimits(bytes=10_000), frames=(0, 5, 1))


def test_times_of_an_avif_may_be_no_whole_milliseconds() -> None:
    """Pillow gives whole ones: 41 of 41 2/3, with which 24 frames a second are 24.4."""
    data = bytearray(animation("AVIF", [125] * 5))
    at = 0
    while (at := data.find(b"mdhd", at + 1)) > 0:
        place = at + (24 if data[at + 4] else 16)
        assert data[place : place + 4] == (1000).to_bytes(4)
        data[place : place + 4] = (3000).to_bytes(4)
    media = probe(bytes(data))
    assert (media.rate, media.duration, media.frames) == (24, Fraction(5, 24), 5)
    assert media.found["frame_rate"] == "24"
    assert media.found["rules"] == "an animated AVIF with parts of milliseconds, since media rules 3"
    frames = decode_media(bytes(data), frames=(0, 5, 1))
    assert np.array_equal(decode_media(bytes(data), frames=(0, 2, 1), fps=12), frames[[0, 2]])
