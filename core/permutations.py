"""Keyed orders, and the hashes that key them, of NumPy alone: `shard` needs no torch for them."""

from __future__ import annotations

import hashlib
import json

import numpy as np


def scrambled(words: np.ndarray) -> np.ndarray:
    """Apply the finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014) to every uint64."""
    z = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def permutation(seed: int, purpose: str, numbers: tuple[int, ...], n: int) -> np.ndarray:
    """Return a permutation of range(n), int64, that depends on nothing but the arguments.

    The keys to sort by are 64-bit words of NumPy's Philox bit generator, whose raw stream is fixed by NumPy's
    compatibility policy (its `Generator.permutation` is not).
    """
    return np.argsort(sort_keys(seed, purpose, numbers, n), kind="stable").astype(np.int64, copy=False)


def sort_keys(seed: int, purpose: str, numbers: tuple[int, ...], n: int) -> np.ndarray:
    """Return the keys by which `permutation` sorts range(n), (n,) uint64, of equal ones the first first."""
    key = int.from_bytes(keyed_hash(16, seed, purpose, *numbers), "little")
    return np.random.Philox(key=key).random_raw(n)


def keyed_hash(size: int, *parts: int | str) -> bytes:
    """Hash to `size` bytes, the same in every process and version (unlike `hash`)."""
    return hashlib.blake2b(json.dumps(parts).encode(), digest_size=size).digest()
