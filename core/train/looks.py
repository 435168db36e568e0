"""Observers of the weights between steps: validation, previews, scores. They do not change training.

A look is due every so many steps. At an early end it is left out, or broken off where it is under way, since
it may take longer than a preempted node is given; the run that goes on from there makes up for it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar

from core.distributed.ranks import World, on_first_rank
from core.metrics.phases import Phases
from core.metrics.record_writer import RecordWriter
from core.metrics.rows import Metrics
from core.progress import say
from core.train.runner import StepRunner


class BrokenOff(Exception):
    """There is no time left to finish."""


class Look(ABC):
    """One thing that is done with the weights every so many steps, by all ranks together.

    phase: of the loop while it is done.  every: steps, 0 for never.  record_file: has a row for each time.
    """

    phase: ClassVar[str]

    def __init__(self, every: int, record_file: RecordWriter, world: World) -> None:
        self.every, self.record_file, self.world = every, record_file, world

    def start(self, step: int) -> None:
        """Begin after `step` steps: results of steps that come again are dropped."""
        if self.world.rank == 0:
            self.record_file.rewind(step)

    def due(self, step: int) -> bool:
        """Return whether it is to be done after `step` steps."""
        return self.every > 0 and step % self.every == 0

    def owed(self, step: int) -> bool:
        """Return whether it was left out after `step` steps, since the run ended early there (collective)."""
        if step == 0 or not self.due(step):
            return False
        return bool(on_first_rank(lambda: self.record_file.last_step() != step))

    @abstractmethod
    def run(
        self, step: int, phases: Phases, broken_off: Callable[[], bool] = lambda: False
    ) -> dict[str, Any] | None:
        """Do it after `step` steps, and write and return the row (collective).

        broken_off: asked again and again, on all ranks alike; if true, there is no row, and None is returned.
        """

    @abstractmethod
    def line(self, row: dict[str, Any]) -> str:
        """Say what came out."""

    @abstractmethod
    def show(self, row: dict[str, Any], metrics: Metrics) -> None:
        """Show a row in the trackers."""


class Looks:
    """The looks of a run, one after the other.  steps: of the whole run."""

    def __init__(self, looks: Sequence[Look], runner: StepRunner, metrics: Metrics, steps: int) -> None:
        self.all = looks
        self._runner, self._metrics, self._steps = runner, metrics, steps

    def start(self, step: int) -> None:
        """Begin after `step` steps."""
        for look in self.all:
            look.start(step)

    def make_up(self, step: int) -> None:
        """Do what the run owes since it ended early after `step` steps (collective)."""
        self._do([look for look in self.all if look.owed(step)], step)

    def take(self, step: int) -> None:
        """Do what is due after `step` steps, unless the run ends early there (collective)."""
        if step == self._steps or not self._runner.early_end.agreed:
            self._do([look for look in self.all if look.due(step)], step)

    def _do(self, looks: Sequence[Look], step: int) -> None:
        is_last, early_end = step == self._steps, self._runner.early_end
        asked = partial(early_end.asked, step)
        for look in looks:
            self._runner.enter(look.phase)
            self._metrics.flush()
            row = look.run(step, self._runner.phases, (lambda: False) if is_last else asked)
            if row is None:
                return  # the run ends here, without this look and those after it
            say(look.line(row))
            look.show(row, self._metrics)
        if looks and not is_last:
            asked(again=False)  # during the last batch
