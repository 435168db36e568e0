"""All trackers of a run. Each fails alone: a line, an incident, and the run goes on without it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from core.metrics.trackers.kinds import KINDS, Shown, Tracker
from core.progress import say

Failed = Callable[[str, str], None]
"""Takes the name of a tracker that has failed, and why."""


class Trackers:
    """What shows a run elsewhere; on rank 0 alone."""

    def __init__(self, names: Sequence[str], shown: Shown, failed: Failed) -> None:
        """shown: but for `failed`, which each tracker gets its own of."""
        self._failed = failed
        self._open: dict[str, Tracker] = {}
        for name in names:
            self._try(name, partial(self._begin, name, shown))

    def show(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Show metrics rows, in order."""
        kept = list(rows)
        self._each(lambda tracker: tracker.show(kept))

    def show_validation(self, row: Mapping[str, Any]) -> None:
        """Show a validation row."""
        self._each(lambda tracker: tracker.show_validation(row))

    def rewind(self, step: int) -> None:
        """Go back to after `step` steps."""
        self._each(lambda tracker: tracker.rewind(step))

    def close(self) -> None:
        """Show the run as ended."""
        self._each(lambda tracker: tracker.close())
        self._open = {}

    def _begin(self, name: str, shown: Shown) -> None:
        self._open[name] = KINDS[name](replace(shown, failed=partial(self._failed, name)))

    def _each(self, does: Callable[[Tracker], None]) -> None:
        for name, tracker in list(self._open.items()):
            self._try(name, partial(does, tracker))

    def _try(self, name: str, does: Callable[[], None]) -> None:
        try:
            does()
        except Exception as error:  # it shows what the run's own files record, and is worth no run
            self._open.pop(name, None)
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
            say(f"warning: {name} failed and is off from here on, metrics go to files only: {reason}")
            self._failed(name, reason)
