"""Report, after a few steps, how fast a run is, how long the rest takes, and what that buys."""

from __future__ import annotations

import statistics
from collections.abc import Callable

from core.progress import counted, duration, say

FIRST = 2  # steps that are slow, since all is set up in them
COUNTED = 5  # steps whose median counts


class Outlook:
    """Says once, after the first steps of a start, what is to be expected of the rest.

    steps: of the whole run.  epoch: samples of an epoch, 0 where that is not known.
    """

    def __init__(self, steps: int, epoch: int, tell: Callable[[str], None] = say) -> None:
        self._steps, self._epoch, self._tell = steps, epoch, tell
        self._seen: list[tuple[float, int]] = []

    def count(self, step: int, seconds: float, samples_seen: int) -> None:
        """Record how long step `step` took, and the number of samples seen in all."""
        if len(self._seen) > FIRST + COUNTED:
            return
        self._seen.append((seconds, samples_seen))
        if len(self._seen) > FIRST + COUNTED and step < self._steps:
            self._tell(self._line(step))

    def _line(self, step: int) -> str:
        recent = self._seen[FIRST:]
        took = statistics.median(seconds for seconds, _ in recent[1:])
        each = (recent[-1][1] - recent[0][1]) / (len(recent) - 1)
        rest = self._steps - step
        total = round(recent[-1][1] + rest * each)
        epochs = f", {total / self._epoch:.3g} epochs of {self._epoch:,}" if self._epoch else ""
        rate = f"{1 / took:.3g} steps per second" if took > 0 else "steps take no time"
        left = counted(rest, "step")
        return (
            f"{rate}: {duration(rest * took)} for the {left} left; in the end {total:,} samples seen{epochs}"
        )
