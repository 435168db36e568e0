"""Perceptual hashes, and the search for near ones against comparing all pairs."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.media.images import decode_image, resize_crop
from data.raw.duplicates import NearIndex, near_duplicates, perceptual_hash
from tests.data.samples import image_bytes


def rings(centre: int = 0) -> np.ndarray:
    """Draw a picture, uint8 (80, 80, 3)."""
    y, x = np.mgrid[-40:40, -30:50]
    wave = (127 + 127 * np.sin(np.hypot(y, x + centre) / 4)).astype(np.uint8)
    return np.stack([wave] * 3, -1)


def noise() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("pixels", "expected"), [(noise(), 0xCC39E459E3097C6A), (rings(), 0xCE2DA9250D3636F1)]
)
def test_hashes_stay_what_they_were(pixels: np.ndarray, expected: int) -> None:
    """Hashes equal those of release 4.3.2; else a survey that another version began would mix two kinds."""
    assert perceptual_hash(pixels) == expected


def test_copies_are_near_and_others_far() -> None:
    original = rings()
    larger = resize_crop(original, 240, 240)
    pressed = decode_image(image_bytes(original, "JPEG", quality=40))
    for copy in (larger, pressed):
        assert (perceptual_hash(copy) ^ perceptual_hash(original)).bit_count() <= 4
    for other in (rings(20), noise(), original[::-1]):
        assert (perceptual_hash(other) ^ perceptual_hash(original)).bit_count() > 16


def all_pairs(hashes: list[tuple[int, ...]], distance: int) -> list[tuple[int, int]]:
    """Compare all pairs of hashes: the plain twin."""
    kept: list[int] = []
    found = []
    for number, pictures in enumerate(hashes):
        near = [
            earlier
            for earlier in kept
            if len(hashes[earlier]) == len(pictures)
            and sum((a ^ b).bit_count() for a, b in zip(hashes[earlier], pictures, strict=True))
            <= distance * len(pictures)
        ]
        if near and pictures:
            found.append((number, near[0]))
        else:
            kept.append(number)
    return found


def close_hashes(draw: st.DrawFn) -> list[tuple[int, ...]]:
    """Return hashes some of which are a few bits away from others."""
    hashes: list[tuple[int, ...]] = []
    for _ in range(draw(st.integers(1, 12))):
        if hashes and draw(st.booleans()):
            base = list(hashes[draw(st.integers(0, len(hashes) - 1))])
            for bit in draw(st.lists(st.integers(0, 63), max_size=8)):
                if base:
                    base[bit % len(base)] ^= 1 << bit
            hashes.append(tuple(base))
        else:
            count = draw(st.sampled_from([0, 1, 1, 3]))
            hashes.append(tuple(draw(st.integers(0, 2**64 - 1)) for _ in range(count)))
    return hashes


@given(st.composite(close_hashes)(), st.integers(0, 8))
@settings(max_examples=150)
def test_search_equals_comparing_all_pairs(hashes: list[tuple[int, ...]], distance: int) -> None:
    assert list(near_duplicates(hashes, distance)) == all_pairs(hashes, distance)


def test_search_looks_at_few_of_many() -> None:
    """Only hashes with a band in common are compared, of 20 000."""
    index = NearIndex(64, 4)
    values = np.random.default_rng(0).integers(0, 2**64, 20000, dtype=np.uint64).tolist()
    for value in values:
        index.add(value)
    assert index.find(values[1234] ^ 0b1011) == 1234
    shared = [len(seen) for seen in index._seen]
    assert min(shared) > 2**11  # lists of a few numbers each


def test_pictures_and_videos_are_not_compared() -> None:
    assert list(near_duplicates([(5,), (5, 5, 5), (5,), ()], 0)) == [(2, 0)]
