"""A watchdog that ends a hanging run, and reports which rank waits for which.

A thread on every rank looks at the clock. When nothing has moved for too long (a stopped rank, a deadlock,
storage that never answers) it writes down where every rank is and the stacks of this one, and ends the
process: before the process group's own timeout, which knows none of this. On standard error one rank speaks
for all, and names those that are least advanced. Where torch's flight recorder is
on (on CUDA `distributed.start` sees to it) its last collectives go along. The status is that of a run that
can be continued, though it may have to repeat steps.

What is slow is not what hangs. A save has a limit of its own, from the last piece written on: by each rank
for what it writes itself, whether training waits for that or not. What cannot give signs of life before the
first step has ended may take START_PATIENCE times as long.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import torch

from core import log, terminal
from core.distributed.ranks import World
from core.errors import CONTINUABLE
from core.faults import heartbeats
from core.faults.heartbeats import Heartbeat, claim_report, open_report, places, shortened
from core.metrics.phases import Phases
from core.reading import json_files
from core.run import ends

EXIT_STATUS = CONTINUABLE  # the run may be started again
PERIOD_S = 5.0
GROUP_SHARE = 0.75  # the watchdog waits at most this share of the process groups' timeout
START_PATIENCE = 6.0  # limits are this much longer until the first step has ended
SAVE = "save"  # the phase in which the loop waits for a save


@dataclass(frozen=True)
class Limits:
    """step_s: the longest time a rank may stay in one phase of one micro-batch.  save_s: the longest time
    without progress in its part of a save, and of the loop in a save where none is under way. 0 is no limit.
    """

    step_s: float
    save_s: float = 0.0


class Watchdog:
    """Watches this rank within a `with` block.

    save_silence: returns the seconds since this rank's part of the save under way last made progress; None
    without one.  end: ends the process with a status.
    """

    def __init__(
        self,
        logs: Path,
        phases: Phases,
        world: World,
        limits: Limits,
        save_silence: Callable[[], float | None] = lambda: None,
        end: Callable[[int], object] = os._exit,
    ) -> None:
        self._logs, self._phases, self._world, self._limits = logs, phases, world, limits
        self._save_silence, self._end = save_silence, end
        self._saved = time.monotonic()  # when a save was last under way
        self._ended = threading.Event()
        shares = [s / 8 for s in (limits.step_s, limits.save_s) if s]
        self._period_s = min([PERIOD_S, *shares])
        self._beat_s = min([heartbeats.PERIOD_S, *shares])
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._heartbeat = Heartbeat(logs, world.rank, self._beat, self._beat_s)

    def __enter__(self) -> Watchdog:
        if self._limits != Limits(0, 0):
            self._phases.enter(self._phases.phase)
            if self._world.rank == 0:
                open_report(self._logs)
            self._heartbeat.start()
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        if self._limits != Limits(0, 0):
            self._thread.join()
            self._heartbeat.stop()

    def _watch(self) -> None:
        while not self._ended.wait(self._period_s):
            if line := self._overdue():
                line = f"rank {self._world.rank}: {line}; the process ends with status {EXIT_STATUS}"
                self._report(line)
                self._end(EXIT_STATUS)
                return

    def _overdue(self) -> str:
        """Return what has not moved for too long; "" for nothing."""
        phases, limits, save = self._phases, self._limits, self._save_silence()
        phase, silence, now = phases.phase, phases.silence(), time.monotonic()
        if save is not None:
            self._saved = now
            if 0 < limits.save_s < save:
                return f"the save under way has written nothing for {save:.0f} s"
        if phase == SAVE:  # a save under way has its own limit
            silence = min(silence, now - self._saved)
        if 0 < self._limit(phase) < silence:
            return f"nothing has moved for {silence:.0f} s in step {phases.step} ({phase})"
        return ""

    def _limit(self, phase: str) -> float:
        return self._limits.save_s if phase == SAVE else self._limits.step_s * self._phases.patience

    def _beat(self) -> dict[str, object]:
        """Return this rank's heartbeat, for other ranks and the supervisor."""
        phases = self._phases
        return {
            "step": phases.step,
            "phase": phases.phase,
            "since_s": phases.silence(),
            "limit_s": self._limit(phases.phase),
            "ids": [int(number) for number in phases.ids[:4]],
        }

    def _report(self, line: str) -> None:
        """Report to the supervisor, and in `logs/` with our stacks; one rank reports for all what is said.

        What goes to disk is given a few seconds only, since it may be the disk that hangs.
        """
        path = self._logs / f"hang-rank-{self._world.rank}.txt"
        is_speaker = self._claims()
        if is_speaker:
            terminal.tell(f"{line}; see {path}")
        for work in (
            lambda: ends.record("hang", EXIT_STATUS, line),
            lambda: self._write_down(line, path, is_speaker),
            lambda: dump_collectives(self._logs, self._world.rank),  # takes locks of a library that hangs
        ):
            _try(work)

    def _claims(self) -> bool:
        """Return whether to speak for all ranks: the first one to ask, and any where storage does not say."""
        answer = [True]

        def ask() -> None:
            with contextlib.suppress(OSError):
                answer[0] = claim_report(self._logs, self._world.rank)

        _try(ask)
        return answer[0]

    def _write_down(self, line: str, path: Path, is_speaker: bool) -> None:
        if is_speaker:
            found = places(self._logs, self._world.size, time.time(), 3 * self._beat_s)
            said, written = shortened(found), [place.text for place in found]
            terminal.tell("\n".join(said))
        else:
            said = written = [f"where every rank was: see the rank that {heartbeats.CLAIM} names"]
        with contextlib.suppress(OSError), open(path, "w", encoding="utf-8") as file:
            file.write("\n".join([line, *written, "", ""]))
            file.flush()
            faulthandler.dump_traceback(file, all_threads=True)
        log.note_last("; ".join([line, *said]), failed=True)


def _try(work: Callable[[], object]) -> None:
    """Do something that may never end, for a few seconds."""
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(PERIOD_S)


def earlier_than_groups(watchdog_s: float, group_timeout_s: float, world: World) -> float:
    """Return the watchdog's time, cut to pass before the process groups' own; 0 stays none."""
    return min(watchdog_s, GROUP_SHARE * group_timeout_s) if world.size > 1 else watchdog_s


def dump_collectives(logs: Path, rank: int) -> None:
    """Write the contents of torch's flight recorders, where on: collectives with sizes, times and states.

    There are two, NCCL's and one for all else. Comparing the ranks' files shows which one never came to which
    collective.
    """
    for name, function in {"nccl-": "_dump_nccl_trace_json", "": "_dump_fr_trace_json"}.items():
        recorder = getattr(torch._C._distributed_c10d, function, None)
        text = recorder() if recorder else b""
        if text and json_files.loaded(text, "the flight recorder").get("entries"):
            (logs / f"collectives-{name}rank-{rank}.json").write_bytes(text)
