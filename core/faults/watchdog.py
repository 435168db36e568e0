"""A run that hangs ends by itself, and says who waits for whom.

A thread on every rank looks at the clock. When nothing has moved for too long (a stopped rank, a deadlock,
storage that never answers) it writes down where every rank is and the stacks of this one, and ends the
process: before the process group's own timeout, which knows none of this. Where torch's flight recorder is
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
from core.faults.heartbeats import Heartbeat, describe_ranks
from core.metrics.phases import Phases
from core.reading import json_files
from core.run import ends

EXIT_STATUS = CONTINUABLE  # whoever started the run may start it again
PERIOD_S = 5.0
GROUP_SHARE = 0.75  # of the process groups' timeout is the longest that the watchdog waits
START_PATIENCE = 6.0  # times as long, until the first step has ended
SAVE = "save"  # the phase in which the loop waits for a save


@dataclass(frozen=True)
class Limits:
    """step_s: how long a rank may stay in one phase of one micro-batch.  save_s: how long its part of a save
    may not go on, and the loop may take for a save where none is under way. 0 is no limit.
    """

    step_s: float
    save_s: float = 0.0


class Watchdog:
    """Watches within a `with` block.

    save_silence: since when this rank's part of the save under way has not gone on, in seconds; None without
    one.  end: ends the process with a status.
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
        self._period_s = min([PERIOD_S, *(s / 8 for s in (limits.step_s, limits.save_s) if s)])
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._heartbeat = Heartbeat(logs, world.rank, self._beat, self._period_s)

    def __enter__(self) -> Watchdog:
        if self._limits != Limits(0, 0):
            self._phases.enter(self._phases.phase)
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
        """What has not moved for too long; "" for nothing."""
        phases, limits, save = self._phases, self._limits, self._save_silence()
        phase, silence, now = phases.phase, phases.silence(), time.monotonic()
        if save is not None:
            self._saved = now
            if 0 < limits.save_s < save:
                return f"the save under way has written nothing for {save:.0f} s"
        if phase == SAVE:  # while one is under way it is that which has to move
            silence = min(silence, now - self._saved)
        if 0 < self._limit(phase) < silence:
            return f"nothing has moved for {silence:.0f} s in step {phases.step} ({phase})"
        return ""

    def _limit(self, phase: str) -> float:
        return self._limits.save_s if phase == SAVE else self._limits.step_s * self._phases.patience

    def _beat(self) -> dict[str, object]:
        """What the others, and the supervisor, are told of the present."""
        phases = self._phases
        return {
            "step": phases.step,
            "phase": phases.phase,
            "since_s": phases.silence(),
            "limit_s": self._limit(phases.phase),
            "ids": [int(number) for number in phases.ids[:4]],
        }

    def _report(self, line: str) -> None:
        """One line on standard error and to the supervisor; in `logs/` every rank's place and our stacks.

        What goes to disk is given a few seconds only, since it may be the disk that hangs.
        """
        path = self._logs / f"hang-rank-{self._world.rank}.txt"
        terminal.tell(f"{line}; see {path}")
        for work in (
            lambda: ends.record("hang", EXIT_STATUS, line),
            lambda: self._write_down(line, path),
            lambda: dump_collectives(self._logs, self._world.rank),  # takes locks of a library that hangs
        ):
            thread = threading.Thread(target=work, daemon=True)
            thread.start()
            thread.join(PERIOD_S)

    def _write_down(self, line: str, path: Path) -> None:
        places = describe_ranks(self._logs, self._world.size, time.time(), 3 * self._period_s)
        terminal.tell("\n".join(places))
        with contextlib.suppress(OSError), open(path, "w", encoding="utf-8") as file:
            file.write("\n".join([line, *places, "", ""]))
            file.flush()
            faulthandler.dump_traceback(file, all_threads=True)
        log.note_last("; ".join([line, *places]), failed=True)


def earlier_than_groups(watchdog_s: float, group_timeout_s: float, world: World) -> float:
    """The watchdog's time, cut where the process groups' own would pass first; 0 stays none."""
    return min(watchdog_s, GROUP_SHARE * group_timeout_s) if world.size > 1 else watchdog_s


def dump_collectives(logs: Path, rank: int) -> None:
    """Write what torch's flight recorders hold, where they are on: collectives with sizes, times and states.

    There are two, NCCL's and one for all else. Comparing the ranks' files shows which one never came to which
    collective.
    """
    for name, function in {"nccl-": "_dump_nccl_trace_json", "": "_dump_fr_trace_json"}.items():
        recorder = getattr(torch._C._distributed_c10d, function, None)
        text = recorder() if recorder else b""
        if text and json_files.loaded(text, "the flight recorder").get("entries"):
            (logs / f"collectives-{name}rank-{rank}.json").write_bytes(text)
