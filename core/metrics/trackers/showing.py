"""All trackers of a run. Each fails alone: one line, one incident, and the run goes on without it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from core.metrics.trackers.kinds import KINDS, Shown, Tracker
from core.progress import say

Failed = Callable[[str, str], None]
"""Takes the name of a tracker that has failed, and why."""


class Trackers:
    """The trackers of a run; on rank 0 alone."""

    def __init__(self, names: Sequence[str], shown: Shown, failed: Failed) -> None:
        """shown: the run, without `failed`, of which each tracker gets its own."""
        self._failed = failed
        self._open: dict[str, Tracker] = {}
        for name in names:
            self._try(name, partial(self._begin, name, shown))

    def show(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Show metrics rows, in order."""
        kept = list(rows)
        self._each(lambda tracker: tracker.show(kept))

    def show_beside(self, step: int, values: Mapping[str, float | None]) -> None:
        """Show further numbers of a step."""
        self._each(lambda tracker: tracker.show_beside(step, values))

    def show_pictures(self, step: int, pictures: Mapping[str, Path]) -> None:
        """Show pictures and films."""
        self._each(lambda tracker: tracker.show_pictures(step, pictures))

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
        except Exception as error:  # it only shows what the run records: never end a run for it
            self._open.pop(name, None)
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
            say(f"warning: {name} failed and is off from here on, metrics go to files only: {reason}")
            self._failed(name, reason)
