"""End a run on a signal (`signals.SIGNALS`) between two steps, with all of them saved.

Signals reach some ranks or all of them, at different moments. A rank that got one raises a flag, and the
flags are added up in the reduction that every step has anyway (`agreement.py`): all ranks read the same sum
after the same step, so all of them save and end there. Before the first step there is nothing to save, and a
rank ends at once.

The handler in the main thread raises the flag, which a collective may keep it from for minutes; that is early
enough. The listening thread (`signals.py`) says or does what cannot wait.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from core import environment, log, terminal
from core.distributed import ranks
from core.distributed.outcomes import tally_of_ranks
from core.distributed.ranks import World
from core.errors import CONTINUABLE, EndedEarly
from core.run import ends, signals
from core.run.last_line import tell
from core.run.signals import INTERRUPTED
from core.run.time_limit import TimeLimit

LOOK_EVERY_S = 1.0  # the supervisor's request is a file; steps may be much shorter than a call to its disk


class EarlyEnd:
    """Tracks whether this rank was asked to end, and whether all ranks do.

    agreed: the run ends after the step just done; the same on all ranks.
    limit: the time limit, by which the run ends without being asked.
    end: ends the process with a status.
    """

    def __init__(self, world: World, end: Callable[[int], object] = os._exit) -> None:
        self.agreed = False
        self.limit = TimeLimit(environment.end_time())
        self._world, self._end = world, end
        self._lock = threading.Lock()
        self._got: list[str] = []  # handled signals; the flag went into step index `_carried`'s reduction
        self._carried: int | None = None
        self._heard: list[signal.Signals] = []  # signals heard by the thread
        self._next: int | None = None  # index of the first step whose reduction carries a flag raised now
        self._steps = 0
        self._is_over = False
        self._looks_again = -math.inf  # time.monotonic() from which on the request is looked for

    @contextlib.contextmanager
    def catching(self) -> Iterator[None]:
        """Answer signals until the block ends; only in the main thread, elsewhere do nothing.

        After an early end all but Ctrl-C stay without effect: the process is ending, and a second signal must
        not take its exit status away.
        """
        with signals.answered_by(self):
            try:
                yield
            finally:
                if self._is_over:
                    signals.settle()

    def begin(self, step_index: int, steps: int) -> None:
        """Save before ending when a signal comes, from now on. The next step is `step_index`, of `steps`."""
        with self._lock:
            self._next, self._steps = step_index, steps

    def flag(self, step_index: int) -> bool:
        """Return whether this rank was asked to end, for the reduction of step `step_index`."""
        with self._lock:
            self._next = step_index + 1
            if self.limit.is_near() and not self._got:
                self._got.append("the time limit")
            return self._carry(step_index)

    def asked(self, done: int, *, again: bool = True) -> bool:
        """Return whether any rank was asked to end by now, after `done` steps; if so it ends (collective).

        For work between two steps that can be left out.  again: whether this is asked once more before the
        next step; else a signal that comes now is the next step's.
        """
        with self._lock:
            self._next = done - 1 if again else done
            mine = self._carry(done - 1)
        flag = torch.tensor([mine], dtype=torch.float32, device=self._world.device)
        self.agreed = bool(ranks.sum_over_ranks(flag).item())
        return self.agreed

    def over(self, folder: Path, step: int, *, saved: bool) -> EndedEarly:
        """Return the error which says that the run in `folder` ended after `step` steps (collective).

        saved: whether there is a checkpoint of that moment.
        """
        self._is_over = True
        names = " and ".join(sorted(tally_of_ranks(self._got)))
        lost = "" if saved else "; the steps since its last checkpoint are repeated then"
        return EndedEarly(
            f"{folder}: ended early on {names}, {'saved ' if saved else ''}after step "
            f"{step} of {self._steps}; the same command continues the run{lost} (exit status {CONTINUABLE})"
        )

    def raise_flag(self, number: int) -> None:
        """Raise the flag, in the main thread, which may hold the lock."""
        self._got.append(signal.Signals(number).name)

    def note(self, got: signal.Signals) -> None:
        """Say what the signal does; end the process where nothing is to be saved, or on a second Ctrl-C."""
        with self._lock:
            is_first, is_second_interrupt = not self._heard, got == signal.SIGINT and got in self._heard
            self._heard.append(got)
            step_index = self._next if self._carried is None else self._carried
            is_late = self.agreed and self._carried is None  # the others asked; we end already
        if is_second_interrupt:
            self._tell(f"{got.name} again: ending at once; the steps since the last checkpoint are lost")
            ends.record("asked", INTERRUPTED, f"{got.name} again")
            self._end(INTERRUPTED)
        elif step_index is None:
            tell(f"{got.name}: ending before the first step; the same command continues the run")
            ends.record("asked", CONTINUABLE, f"{got.name}: before the first step")
            self._end(CONTINUABLE)
        elif is_first and not is_late:
            # Earlier if another rank was asked before, or where work after a step is broken off.
            end = f"ending after step {step_index + 1} at the latest…"
            self._tell(f"{got.name}: {end if step_index < self._steps else 'all steps are done…'}")

    def _carry(self, step_index: int) -> bool:
        """Return whether this rank was asked to end; if so, signals lead to a save after step `step_index`.

        The first rank also reads the supervisor's request, which reaches a job where signals do not.
        """
        if self._world.rank == 0 and not self._got and (why := self._request()):
            self._got.append(why)
        asked = bool(self._got)
        if asked and self._carried is None:
            self._carried = step_index
        return asked

    def _request(self) -> str:
        """Return why the supervisor asks the run to end; '' while it does not, and between two looks."""
        now = time.monotonic()
        if now < self._looks_again:
            return ""
        self._looks_again = now + LOOK_EVERY_S
        return ends.end_asked()

    def _tell(self, text: str) -> None:
        """Print the text on this rank, since perhaps no other rank got the signal."""
        who = f"rank {self._world.rank}: " if self._world.size > 1 else ""
        terminal.tell(f"{who}{text}", clear=terminal.is_terminal())
        log.note_last(text)
