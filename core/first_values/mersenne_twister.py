"""Skip ahead in torch's generator on CPUs, so that a rank draws its own numbers and not those before them.

The generator is MT19937 (Matsumoto and Nishimura 1998), whose words x[k + 624] = x[k + 397] ^ twist(x[k],
x[k + 1]) are linear over bits. So the words `count` places on are sums of the first 19,937 ones, namely those
with the exponents of t^count modulo the characteristic polynomial (Haramoto et al. 2008,
doi:10.1287/ijoc.1070.0251).

A skip costs some 30 ms, whatever its length, where drawing takes 3 ns a number.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

WORDS, MIDDLE, DEGREE = 624, 397, 19937
MATRIX = 0x9908B0DF
# Of the generator's state as torch gives it: seed (8 bytes), words left and whether seeded (4 each), the next
# word (8), and a 64-bit place for each word; then what is kept between two normal numbers.
_LEFT, _NEXT, _STATE = slice(8, 12), slice(16, 24), slice(24, 24 + 8 * WORDS)
_SHORT = 100 * WORDS  # words that are drawn in less time than a skip takes

Words = np.ndarray[tuple[int, ...], np.dtype[np.uint32]]


def skipped(state: Tensor, count: int) -> Tensor:
    """Return a generator's state `count` 32-bit words after `state`; both as `Generator.get_state` has it."""
    if count < _SHORT:
        generator = torch.Generator()
        generator.set_state(state)
        torch.empty(count).uniform_(generator=generator)
        return generator.get_state()
    data = state.numpy().copy()
    left = int(data[_LEFT].view(np.int32)[0])
    blocks, place = divmod(WORDS + 1 - left + count - 1, WORDS)  # the state keeps words that were used
    words = data[_STATE].view(np.uint64).astype(np.uint32)
    data[_STATE] = _later(words, blocks).astype(np.uint64).view(np.uint8)
    data[_NEXT] = np.array([place + 1], np.uint64).view(np.uint8)
    data[_LEFT] = np.array([WORDS - place], np.int32).view(np.uint8)
    return torch.from_numpy(data)


def _later(words: Words, blocks: int) -> Words:
    """Return the state `blocks` times 624 words on."""
    exponents = _exponents(blocks)
    row = [words]
    while sum(map(len, row)) < DEGREE + WORDS:
        row.append(_next_block(row[-1]))
    windows = np.lib.stride_tricks.sliding_window_view(np.concatenate(row), WORDS)
    result = np.zeros(WORDS, np.uint32)
    for part in np.array_split(exponents, 16):
        result ^= np.bitwise_xor.reduce(windows[part], axis=0)
    return result


def _next_block(words: Words) -> Words:
    """Return the 624 words after these."""
    row = np.concatenate([words, np.empty(WORDS, np.uint32)])
    for first in range(0, WORDS, WORDS - MIDDLE):  # as many as depend on known ones
        count = min(WORDS - MIDDLE, WORDS - first)
        x = (row[first : first + count] & np.uint32(1 << 31)) | (
            row[first + 1 : first + count + 1] & np.uint32((1 << 31) - 1)
        )
        twisted = (x >> np.uint32(1)) ^ (x & np.uint32(1)) * np.uint32(MATRIX)
        middle = row[first + MIDDLE : first + MIDDLE + count]
        row[WORDS + first : WORDS + first + count] = middle ^ twisted
    return row[WORDS:]


@lru_cache(maxsize=256)
def _exponents(blocks: int) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    """Return the exponents of t^(624 blocks) modulo the characteristic polynomial."""
    polynomial = 1
    for bit in bin(WORDS * blocks)[2:]:
        polynomial = _reduced(_squared(polynomial) << int(bit))
    bits = np.frombuffer(polynomial.to_bytes(DEGREE // 8 + 1, "little"), np.uint8)
    return np.flatnonzero(np.unpackbits(bits, bitorder="little"))


# Polynomials over bits are integers: bit i is the coefficient of t^i.


@lru_cache(maxsize=1)
def _characteristic() -> tuple[int, list[int]]:
    """Return the polynomial, by the paper's appendix, and the exponents of its terms but the first."""
    powers = [1]
    for _ in range(31):
        powers.append(powers[-1] << WORDS - 1 ^ powers[-1] << MIDDLE - 1)
    inner = powers[31]
    for place in range(31):
        inner ^= powers[30 - place] * (MATRIX >> place & 1)
    polynomial = inner << WORDS ^ inner << MIDDLE ^ (MATRIX >> 31 & 1)
    return polynomial, [e for e in range(DEGREE) if polynomial >> e & 1]


def _squared(polynomial: int) -> int:
    """Return the square: a zero between every two coefficients."""
    count = polynomial.bit_length() // 8 + 1
    bits = np.unpackbits(np.frombuffer(polynomial.to_bytes(count, "little"), np.uint8), bitorder="little")
    spread = np.zeros(2 * len(bits), np.uint8)
    spread[::2] = bits
    return int.from_bytes(np.packbits(spread, bitorder="little").tobytes(), "little")


def _reduced(polynomial: int) -> int:
    """Return the remainder modulo the characteristic polynomial."""
    _, others = _characteristic()
    while (over := polynomial >> DEGREE) > 0:
        polynomial &= (1 << DEGREE) - 1
        for exponent in others:
            polynomial ^= over << exponent
    return polynomial
