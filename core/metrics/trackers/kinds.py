"""The kinds of trackers, by the name of the field of `metrics` that asks for one.

A kind is one file with a class that has the methods of `Tracker`, and one line here.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from core.errors import UserError
from core.metrics.trackers.event_files import EventFiles
from core.metrics.trackers.wandb_view import WandbView


class Tracker(Protocol):
    """Shows rows in another place. Any exception it raises costs the view and never the run."""

    def show(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Show metrics rows, in order."""
        ...

    def show_beside(self, step: int, values: Mapping[str, float | None]) -> None:
        """Show further numbers of a step, beside its metrics, which were shown before; None is not finite."""
        ...

    def show_pictures(self, step: int, pictures: Mapping[str, Path]) -> None:
        """Show pictures (.png) and films (.mp4) by name, beside the metrics of their step.

        Films are left out where the place cannot show them.
        """
        ...

    def rewind(self, step: int) -> None:
        """Go back to after `step` steps: later ones will be shown again."""
        ...

    def close(self) -> None:
        """Show the run as ended."""
        ...


@dataclass(frozen=True)
class Shown:
    """The run that a tracker shows, from after `step` steps on.

    project: for services that have one.  failed: called with the reason by a tracker that has ended by
    itself, after it said so.
    """

    folder: Path
    step: int
    project: str
    run_config: Mapping[str, Any]
    failed: Callable[[str], None] = lambda reason: None


KINDS: dict[str, Callable[[Shown], Tracker]] = {
    "wandb": lambda shown: WandbView(shown.folder, shown.project, shown.run_config, shown.failed),
    "tensorboard": lambda shown: EventFiles(shown.folder, shown.step),
}
"""Each also is the name of the package that it needs, and of longtake's extra with it."""


def require_installed(names: Sequence[str]) -> None:
    """Raise UserError for a tracker whose package is not installed."""
    for name in names:
        found = importlib.util.find_spec(name)
        if found is None or found.origin is None:  # a plain folder of that name is no package
            raise UserError(name, "true", f"false, or: pip install 'longtake[{name}]'")
