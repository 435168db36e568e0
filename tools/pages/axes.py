"""Axes of a chart: which values they show, and at which round ones ticks stand."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


@dataclass(frozen=True)
class Axis:
    """An axis from `low` to `high`, both in the units of the values; `logarithmic` ones are above 0."""

    low: float
    high: float
    logarithmic: bool = False

    def share(self, value: float) -> float:
        """Return where a value lies, 0 at the low end and 1 at the high one; outside values at the ends."""
        low, high = self._scaled(self.low), self._scaled(self.high)
        at = low if self.logarithmic and value <= 0 else self._scaled(value)
        return min(1.0, max(0.0, (at - low) / (high - low)))

    def shares(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return `share` of each value."""
        low, high = self._scaled(self.low), self._scaled(self.high)
        at = np.log10(np.maximum(values, self.low)) if self.logarithmic else values
        return np.clip((at - low) / (high - low), 0.0, 1.0)

    def ticks(self, most: int = 5) -> list[float]:
        """Return round values, at most about `most` of them."""
        if self.logarithmic:
            return _logarithmic_ticks(self.low, self.high, most)
        step = _round_step((self.high - self.low) / most)
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [n * step for n in range(first, last + 1)]

    def _scaled(self, value: float) -> float:
        return math.log10(value) if self.logarithmic else value


def axis(low: float, high: float, *, logarithmic: bool = False, from_zero: bool = False) -> Axis:
    """Return the axis for values from `low` to `high`, with a little room; a single value gets some too."""
    if logarithmic:
        if high / low < 1.2:
            low, high = low / 1.1, high * 1.1
        room = (high / low) ** 0.03
        return Axis(low / room, high * room, True)
    if from_zero and low >= 0:
        return Axis(0.0, high * 1.05 or 1.0)
    room = (high - low) * 0.04 or abs(high) * 0.1 or 1.0
    return Axis(low - room, high + room)


def shown(value: float) -> str:
    """Write a number for a tick or a hover text: `12.5k`, `0.0031`, `2e-05`."""
    size = abs(value)
    for unit, prefix in PREFIXES:
        if size >= unit and size >= 1e4:
            return f"{value / unit:.4g}{prefix}"
    return f"{value:.4g}"


def _round_step(step: float) -> float:
    power = 10.0 ** math.floor(math.log10(step)) if step > 0 else 1.0
    return next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= step * (1 - 1e-9))


def _logarithmic_ticks(low: float, high: float, most: int) -> list[float]:
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    if last - first > most:
        stride = math.ceil((last - first) / most)
        return [10.0**n for n in range(first, last + 1, stride) if low <= 10.0**n <= high]
    for factors in ((1, 2, 3, 4, 5, 6, 7, 8, 9), (1, 2, 3, 5), (1, 2, 5), (1, 3), (1,)):
        found = [f * 10.0**n for n in range(first, last + 1) for f in factors]
        kept = [value for value in found if low <= value <= high]
        if 3 <= len(kept) <= most + 2:
            return kept
    return Axis(low, high).ticks(most)
