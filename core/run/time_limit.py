"""End a run in time to save, before the scheduler ends the job.

A signal before the end may not come: not every site sends one, and containers hear none. So the run measures
how long its steps and saves take, and asks itself to end in time.
"""

from __future__ import annotations

import time
from collections.abc import Callable

RESERVE_S = 30.0  # for what is not measured: the end of processes, a slower disk
SAVES = 1.5  # times the longest save


class TimeLimit:
    """Determines when the last step has to begin.

    end: of the job, in seconds since 1970; None for no limit.  longest_save_s: until now.
    """

    def __init__(
        self,
        end: float | None,
        longest_save_s: Callable[[], float] = lambda: 0.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.longest_save_s = longest_save_s
        self._end, self._clock = end, clock
        self._last: float | None = None
        self._longest_step_s = 0.0

    def is_near(self) -> bool:
        """Return whether the step that begins now has to be the last; asked once a step.

        The time between two steps counts as theirs, validation too: it may come again before the end.
        """
        now = self._clock()
        if self._last is not None:
            self._longest_step_s = max(self._longest_step_s, now - self._last)
        self._last = now
        return self._end is not None and now > self._end - self.needs_s()

    def needs_s(self) -> float:
        """Return how long before the end the last step has to begin."""
        return SAVES * self.longest_save_s() + self._longest_step_s + RESERVE_S
