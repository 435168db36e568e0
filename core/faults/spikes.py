"""Gradient spikes: a limit on the gradient's norm that follows its usual size."""

from __future__ import annotations

import math

WARM_UP = 100  # norms seen before the limit acts
RATE = 0.01  # of the running mean and variance
LEAST_STD = 0.1  # of the log norm, so that a very steady run has no spikes of 10 %


class SpikeGuard:
    """Clips at exp(mean + sigma * std) of the log norm, or at `clipping` where that is less.

    Like ZClip (arXiv:2504.02507), with the norm's logarithm, which is nearer to a normal distribution. The
    limit is known before the norm is, so it costs nothing. A spike enters the statistics as the limit it
    was clipped to, so that one does not excuse the next. 0 as `clipping` is none; as `sigma`, no guard.

    clipping: the largest norm that the next gradient may keep; 0 is any.
    """

    def __init__(self, sigma: float, clipping: float) -> None:
        self._sigma, self._clipping = sigma, clipping
        self._count, self._mean, self._variance = 0, 0.0, 0.0
        self._set_limit()

    def observe(self, norm: float) -> bool:
        """Take a finite norm into account; return whether it was a spike."""
        limit = self._limit
        is_spike = 0 < limit < norm
        if self._sigma and norm > 0:
            self._count += 1
            rate = max(RATE, 1 / self._count)
            difference = math.log(min(norm, limit or norm)) - self._mean
            self._mean += rate * difference
            self._variance = (1 - rate) * (self._variance + rate * difference**2)
            self._set_limit()
        return is_spike

    def state(self) -> list[float]:
        """Return the exact state that `load` takes back."""
        return [self._count, self._mean, self._variance]

    def load(self, state: list[float]) -> None:
        """Continue from what `state` returned."""
        self._count, self._mean, self._variance = int(state[0]), state[1], state[2]
        self._set_limit()

    def _set_limit(self) -> None:
        """Set the limit once a step, so that reading it costs nothing; 0 where there is none yet."""
        self._limit, self.clipping = 0.0, self._clipping
        if self._sigma and self._count >= WARM_UP:
            self._limit = math.exp(self._mean + self._sigma * max(math.sqrt(self._variance), LEAST_STD))
            self.clipping = min(self._limit, self._clipping or self._limit)
