"""What a rank is doing, for how long, and what it has spent its time on: read by metrics and the watchdog."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

PHASES = ("data", "forward", "backward", "update", "validate", "save", "check", "other")
ALONE = ("data", "forward")  # in these a rank waits for no other, so they show who is late


class Phases:
    """A stopwatch that is always in one phase; seconds are the host's.

    step: the step under way, counted from 0.  phase: what it is in, since `since`.  ids: samples in it.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self.step, self.phase, self.since = 0, "other", clock()
        self.ids: Sequence[Any] | Tensor = []
        self._spent = dict.fromkeys(PHASES, 0.0)

    def enter(self, phase: str) -> None:
        """Leave the phase under way and begin `phase`; to enter the same one again is a sign of life too."""
        now = self._clock()
        self._spent[self.phase] += now - self.since
        self.phase, self.since = phase, now

    def silence(self) -> float:
        """Seconds since the last `enter`."""
        return self._clock() - self.since

    def take(self) -> list[float]:
        """Seconds spent in each of PHASES since the last `take`."""
        self.enter(self.phase)
        spent, self._spent = list(self._spent.values()), dict.fromkeys(PHASES, 0.0)
        return spent
