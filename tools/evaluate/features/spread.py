"""A score that is a mean over parts of the samples."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Spread:
    """A mean over parts of the samples, the standard deviation of its parts, and half its 95 % interval.

    Where parts overlap, the deviation says nothing of the mean.  half_width: nan where none is known.
    """

    value: float
    deviation: float
    half_width: float = math.nan

    def times(self, scale: float) -> Spread:
        """Return the same of a multiple of the score."""
        return Spread(scale * self.value, scale * self.deviation, scale * self.half_width)
