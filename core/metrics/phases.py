"""The current phase of a rank and the time spent in each, for metrics and the watchdog."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

PHASES = ("data", "forward", "backward", "update", "validate", "preview", "save", "check", "other")
COMPUTED = ("forward", "backward")  # where `own_clock` tells work from waiting for other ranks
MEASURED = (*PHASES, "computing")


class Phases:
    """A stopwatch that is always in one phase; seconds are the host's.

    step: the step under way, or else the last one: 1, 2, ...  phase: the present one, since `since`.
    ids: samples in it.
    patience: how many times as long as usual a phase may take without a sign of life (`faults.watchdog`).
    own_clock: stands still while the thread waits, as `time.thread_time` does; None counts nothing.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.perf_counter,
        own_clock: Callable[[], float] | None = None,
    ) -> None:
        self._clock, self._own_clock = clock, own_clock
        self.step, self.phase, self.since = 1, "other", clock()
        self.ids: Sequence[Any] | Tensor = []
        self.patience = 1.0
        self._spent = dict.fromkeys(PHASES, 0.0)
        self._computed, self._own_since = 0.0, own_clock() if own_clock else 0.0

    def enter(self, phase: str) -> None:
        """Leave the phase under way and begin `phase`; to enter the same one again is a sign of life too."""
        now = self._clock()
        self._spent[self.phase] += now - self.since
        if self._own_clock is not None:
            own = self._own_clock()
            if self.phase in COMPUTED:
                self._computed += own - self._own_since
            self._own_since = own
        self.phase, self.since = phase, now

    def silence(self) -> float:
        """Return the seconds since the last `enter`."""
        return self._clock() - self.since

    def take(self) -> list[float]:
        """Return seconds of each of MEASURED since the last `take`; COMPUTED phases count own work alone."""
        self.enter(self.phase)
        spent = [*self._spent.values(), self._computed]
        self._spent, self._computed = dict.fromkeys(PHASES, 0.0), 0.0
        return spent
