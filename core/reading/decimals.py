"""Numbers written as text within a buffer of bytes, read many at a time.

Eight characters are taken at once as one integer: their digits are added up in pairs, fours and eights
(Lemire, "Quickly parsing eight digits", 2018). What is more than digits with a point among them, as JSON
writes small numbers, `null` and `true`, is left to NumPy and to comparisons.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

LONGEST = 32  # bytes of a number; a buffer has as many beyond its last one
_ZEROS, _HIGH = np.uint64(0x3030303030303030), np.uint64(0xF0F0F0F0F0F0F0F0)
_SIXES, _POINTS = np.uint64(0x0606060606060606), np.uint64(0x2E2E2E2E2E2E2E2E)
_ONES, _TOPS = np.uint64(0x0101010101010101), np.uint64(0x8080808080808080)
_TENS = 10.0 ** np.arange(17)
_WORDS = {b"null": np.nan, b"true": 1.0, b"false": 0.0}

Longs = NDArray[np.int64]
Floats = NDArray[np.float64]


def words_of(data: bytes | bytearray) -> NDArray[np.uint64]:
    """Return a view whose element k is the eight bytes from place k on, the first one lowest."""
    return np.ndarray((len(data) - 7,), "<u8", data, strides=(1,))


def numbers(data: bytes | bytearray, starts: Longs, stops: Longs) -> tuple[Floats, NDArray[np.bool_]]:
    """Return the numbers that stand between the places, and which places hold no number.

    data: with at least LONGEST bytes after the last start.  `null`, `true` and `false` are NaN, 1 and 0, what
    is too large for a float is NaN. Numbers differ from `float`'s by rounding, by 1e-15 of their size.
    """
    words = words_of(data)
    first = words[starts]
    sizes = stops - starts
    point = np.minimum(_point(first), sizes)
    after = np.maximum(sizes - point - 1, 0)
    whole, is_whole = _digits(first, point)
    high, is_high = _digits(words[starts + point + 1], np.minimum(after, 8))
    low, is_low = _digits(words[starts + point + 9], np.clip(after - 8, 0, 8))
    shown = np.minimum(after, 16)
    values = whole + high / _TENS[np.minimum(after, 8)] + low / _TENS[shown]
    plain = is_whole & is_high & is_low & (point > 0) & (point < 8) & (after < 18) & (sizes - point != 1)
    rest = np.flatnonzero(~plain)
    is_bad = np.zeros(len(values), np.bool_)
    if len(rest):
        values[rest], is_bad[rest] = _others(data, starts[rest], sizes[rest])
    values[~np.isfinite(values)] = np.nan
    return values, is_bad


def _point(words: NDArray[np.uint64]) -> Longs:
    """Return the place of the first point among eight characters, 8 where there is none."""
    without = words ^ _POINTS
    found = (without - _ONES) & ~without & _TOPS
    lowest = found & (~found + np.uint64(1))
    place = (np.frexp(lowest.astype(np.float64))[1].astype(np.int64) - 1) >> 3
    return np.where(found == 0, 8, place)


def _digits(words: NDArray[np.uint64], count: Longs) -> tuple[Floats, NDArray[np.bool_]]:
    """Return the integer that the first `count` of eight characters are, and whether they are digits."""
    shift = np.uint64(8) * (8 - count).astype(np.uint64)
    none = count == 0
    shift[none] = np.uint64(0)
    shifted = words << shift
    is_right = ((shifted & (_HIGH << shift)) == (_ZEROS << shift)) & (
        ((shifted + (_SIXES << shift)) & (_HIGH << shift)) == (_ZEROS << shift)
    )
    value = shifted - (_ZEROS << shift)
    value = value * np.uint64(10) + (value >> np.uint64(8))
    pairs = np.uint64(0x000000FF000000FF)
    upper = (value & pairs) * np.uint64(0x000F424000000064)
    lower = ((value >> np.uint64(16)) & pairs) * np.uint64(0x0000271000000001)
    total = ((upper + lower) >> np.uint64(32)).astype(np.float64)
    total[none] = 0.0
    return total, is_right | none


def _others(data: bytes | bytearray, starts: Longs, sizes: Longs) -> tuple[Floats, NDArray[np.bool_]]:
    """Read what is no plain decimal: with sign or exponent, or a word of JSON."""
    is_bad = (sizes < 1) | (sizes > LONGEST)
    width = int(np.max(sizes[~is_bad], initial=1))
    characters = np.frombuffer(data, np.uint8)[starts[:, None] + np.arange(width)]
    kept = np.where(np.arange(width) < sizes[:, None], characters, np.uint8(0))
    texts = np.ascontiguousarray(kept).view(f"S{width}")[:, 0]
    values = np.zeros(len(texts))
    is_word = np.zeros(len(texts), np.bool_)
    for word, value in _WORDS.items():
        here = texts == word
        values[here] = value
        is_word |= here
    rest = np.flatnonzero(~is_word & ~is_bad)
    try:
        values[rest] = texts[rest].astype(np.float64)
    except ValueError:  # at least one of them is no number: all are left to a parser of JSON
        is_bad[rest] = True
    return values, is_bad
