"""A run that hangs ends by itself, and says who waits for whom.

A thread on every rank leaves a heartbeat in `logs/` and looks at the clock. When nothing has moved for too
long (a stopped rank, a deadlock, storage that never answers) it writes down where every rank is and the
stacks of this one, and ends the process: before the process group's own timeout, which knows none of this.
Where torch's flight recorder is on (on CUDA `distributed.start` sees to it) its last collectives go along.
The status is that of a run that can be continued, though it may have to repeat steps.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TypedDict

import torch

from core import terminal
from core.distributed.ranks import World
from core.errors import CONTINUABLE, WorkError
from core.files import temporary_name
from core.metrics.phases import Phases
from core.reading import json_files
from core.run import ends

EXIT_STATUS = CONTINUABLE  # whoever started the run may start it again
PERIOD_S = 5.0
GROUP_SHARE = 0.75  # of the process groups' timeout is the longest that the watchdog waits


class _Beat(TypedDict):
    """What a heartbeat says.  since_s: in this phase.  ids: of the first samples of the micro-batch."""

    step: int
    phase: str
    since_s: float
    ids: list[int]
    time: float


class Watchdog:
    """Watches within a `with` block.

    timeout_s: how long a rank may stay in one phase of one micro-batch; 0 watches nothing.
    end: ends the process with a status.
    """

    def __init__(
        self,
        logs: Path,
        phases: Phases,
        world: World,
        timeout_s: float,
        end: Callable[[int], object] = os._exit,
    ) -> None:
        self._logs, self._phases, self._world, self._timeout_s = logs, phases, world, timeout_s
        self._end, self._ended = end, threading.Event()
        self._period_s = min(PERIOD_S, timeout_s / 8)
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> Watchdog:
        if self._timeout_s:
            self._logs.mkdir(parents=True, exist_ok=True)
            self._phases.enter(self._phases.phase)
            self._beat()
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        if self._timeout_s:
            self._thread.join()
            _heartbeat(self._logs, self._world.rank).unlink(missing_ok=True)

    def _watch(self) -> None:
        while not self._ended.wait(self._period_s):
            self._beat()
            if self._phases.silence() > self._timeout_s:
                ends.record("hang", EXIT_STATUS, self._report())
                self._end(EXIT_STATUS)
                return

    def _beat(self) -> None:
        """Leave word of the present for the other ranks; no fsync, since only the living read it."""
        phases = self._phases
        ids = [int(number) for number in phases.ids[:4]]
        beat = {"step": phases.step, "phase": phases.phase, "since_s": phases.silence(), "ids": ids}
        path = _heartbeat(self._logs, self._world.rank)
        temporary = temporary_name(path)
        with contextlib.suppress(OSError):  # a full disk is for others to report
            temporary.write_text(json.dumps({**beat, "time": time.time()}), encoding="utf-8")
            temporary.replace(path)

    def _report(self) -> str:
        """One line on standard error, returned too; in `logs/` also every rank's place and our stacks."""
        rank, phases = self._world.rank, self._phases
        line = (
            f"rank {rank}: nothing has moved for {phases.silence():.0f} s in step {phases.step} "
            f"({phases.phase}); the process ends with status {EXIT_STATUS}"
        )
        places = describe_ranks(self._logs, self._world.size, time.time(), 3 * self._period_s)
        path = self._logs / f"hang-rank-{rank}.txt"
        terminal.tell("\n".join([f"{line}; see {path}", *places]))
        with contextlib.suppress(OSError), open(path, "w", encoding="utf-8") as file:
            file.write("\n".join([line, *places, "", ""]))
            file.flush()
            faulthandler.dump_traceback(file, all_threads=True)
        dump = threading.Thread(target=dump_collectives, args=(self._logs, rank), daemon=True)
        dump.start()
        dump.join(PERIOD_S)  # it takes locks of a library that hangs
        return line


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


def describe_ranks(logs: Path, ranks: int, now: float, silent_s: float) -> list[str]:
    """A line for each rank's last heartbeat, the least advanced first; a silent one is the likely culprit.

    silent_s: how long without a heartbeat is worth a word.
    """
    lines = []
    for rank in range(ranks):
        try:
            beat = json_files.read(_heartbeat(logs, rank), _Beat)
        except (OSError, WorkError):
            lines.append((-1, 0.0, f"rank {rank} has left no heartbeat"))
            continue
        ago = now - beat["time"]
        samples = ", ".join(map(str, beat["ids"]))
        text = f"rank {rank}: step {beat['step']}, {beat['phase']} for {beat['since_s']:.0f} s"
        silent = f"; no heartbeat for {ago:.0f} s" if ago > silent_s else ""
        lines.append((beat["step"], -ago, f"{text}{silent}; samples {samples}"))
    return [text for _, _, text in sorted(lines)]


def _heartbeat(logs: Path, rank: int) -> Path:
    return logs / f"heartbeat-rank-{rank}.json"
