"""Choose the micro-batch of a rank: the largest that fits, of the numbers that divide its share of a group.

Imports nothing heavy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Measured:
    """Bytes of tensors after each operation of a forward and backward pass over one sample and over two.

    An operation's bytes are linear in the number of samples where both passes do the same operations, so the
    peak of any number follows. Where they differ, or a device tells its peak alone, a line through the
    two peaks stands for it.
    """

    one: Sequence[int]
    two: Sequence[int]

    def bytes(self, samples: int) -> int:
        """Return the peak for so many samples; it never falls with their number."""
        one, two = self.one, self.two
        if len(one) != len(two):
            one, two = [max(one)], [max(two)]
        more = samples - 1
        return max(a + more * max(0, b - a) for a, b in zip(one, two, strict=True))


def divisors(share: int) -> list[int]:
    """Return the numbers that divide `share`, the largest first."""
    return [number for number in range(share, 0, -1) if share % number == 0]


def choose(share: int, measured: Measured, budget: int) -> int:
    """Return the largest divisor of `share` whose bytes are within `budget`; 1 where none is."""
    return next((number for number in divisors(share) if measured.bytes(number) <= budget), 1)
