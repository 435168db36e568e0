"""Find the same picture twice: equal bytes, or perceptual hashes that differ in few bits."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from core.config.settings import setting

BITS = 64  # length of the hash of one picture


@dataclass(frozen=True, kw_only=True)
class DuplicateConfig:
    """Rules for leaving repetitions out. Of equal files the first stays, of similar ones the largest."""

    exact: bool = setting(False, "leave out files whose bytes equal those of another")
    near: int = setting(
        -1,
        "leave out files whose perceptual hash differs from another's in at most this many of its 64 bits"
        " (videos: on average over three frames); 4 finds resized and recompressed copies, 12 also "
        "slightly cropped ones; -1 is off; needs `pip install longtake[duplicates]`",
        unit="bits",
        low=-1,
        high=16,
    )


def perceptual_hash(pixels: np.ndarray) -> int:
    """Return the 64 bits of `imagehash.phash` of uint8 (H, W, 3), the first bit of the first row highest.

    Which low frequencies of the DCT of a small grey picture are above their median. Copies of a picture in
    other sizes and qualities differ in few bits, other pictures in about 32.
    """
    import imagehash
    from PIL import Image

    return int(str(imagehash.phash(Image.fromarray(pixels))), 16)


class NearIndex:
    """Finds an earlier hash within `distance` bits of a new one, without comparing all pairs.

    width: bits of a hash.  Cut into distance + 1 bands, two hashes that differ in at most `distance` bits
    have one band in common (pigeonhole; multi-index hashing, Norouzi et al., arXiv:1307.2982).
    """

    def __init__(self, width: int, distance: int) -> None:
        self.distance = distance
        edges = [width * band // (distance + 1) for band in range(distance + 2)]
        self._bands = [(low, (1 << (high - low)) - 1) for low, high in itertools.pairwise(edges)]
        self._seen: list[dict[int, list[int]]] = [defaultdict(list) for _ in self._bands]
        self._hashes: list[int] = []

    def add(self, value: int) -> None:
        """Remember a hash; it gets the next number, from 0 on."""
        for (low, mask), seen in zip(self._bands, self._seen, strict=True):
            seen[(value >> low) & mask].append(len(self._hashes))
        self._hashes.append(value)

    def find(self, value: int) -> int | None:
        """Return the least number of a remembered hash within the distance, or None."""
        found = [
            number
            for (low, mask), seen in zip(self._bands, self._seen, strict=True)
            for number in seen.get((value >> low) & mask, ())
            if (self._hashes[number] ^ value).bit_count() <= self.distance
        ]
        return min(found, default=None)


def near_duplicates(hashes: Sequence[Sequence[int]], distance: int) -> Iterator[tuple[int, int]]:
    """Yield (number, number of the earlier sample that it repeats) for all that repeat one that stays.

    hashes: of each file one for every picture looked at; files with other numbers of pictures are not
    compared, and without any are never a repetition.  distance: bits a picture.
    """
    indices: dict[int, tuple[NearIndex, list[int]]] = {}
    for number, pictures in enumerate(hashes):
        if not pictures:
            continue
        width = BITS * len(pictures)
        index, kept = indices.setdefault(width, (NearIndex(width, distance * len(pictures)), []))
        joined = sum(value << (BITS * place) for place, value in enumerate(pictures))
        earlier = index.find(joined)
        if earlier is None:
            index.add(joined)
            kept.append(number)
        else:
            yield number, kept[earlier]
