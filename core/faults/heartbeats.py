"""Heartbeats of ranks in `logs/`: where each one is, for its peers and for the supervisor of the job."""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypedDict

from core.files import temporary_name
from core.reading import json_files
from core.reading.json_files import Malformed

STOP_S = 5.0  # for the last beat, on storage that may not answer


class _Beat(TypedDict):
    """What a heartbeat says.  since_s: in this phase.  ids: of the first samples of the micro-batch."""

    step: int
    phase: str
    since_s: float
    ids: list[int]
    time: float


class Heartbeat:
    """A thread that leaves word of the present every `period_s` seconds.

    Of its own, so that the watchdog goes on where storage does not answer.  present: what is told.
    """

    def __init__(
        self, logs: Path, rank: int, present: Callable[[], Mapping[str, object]], period_s: float
    ) -> None:
        self._path, self._present, self._period_s = path_of(logs, rank), present, period_s
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def start(self) -> None:
        """Leave word for the first time, and from now on."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._beat()
        self._thread.start()

    def stop(self) -> None:
        """End, and take the last word away."""
        self._ended.set()
        self._thread.join(STOP_S)
        self._path.unlink(missing_ok=True)

    def _run(self) -> None:
        while not self._ended.wait(self._period_s):
            self._beat()

    def _beat(self) -> None:
        """Write without fsync, since only the living read it; a full disk still takes the time of a sign."""
        temporary = temporary_name(self._path)
        try:
            temporary.write_text(json.dumps({**self._present(), "time": time.time()}), encoding="utf-8")
            temporary.replace(self._path)
        except OSError:  # for others to report
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
                os.utime(self._path)


def path_of(logs: Path, rank: int) -> Path:
    """Return where a rank leaves its heartbeat."""
    return logs / f"heartbeat-rank-{rank}.json"


def describe_ranks(logs: Path, ranks: int, now: float, silent_s: float) -> list[str]:
    """A line for each rank's last heartbeat, the least advanced first; a silent one is the likely culprit.

    silent_s: how long without a heartbeat is worth a word.
    """
    lines = []
    for rank in range(ranks):
        try:
            beat = json_files.read(path_of(logs, rank), _Beat)
        except (OSError, Malformed):
            lines.append((-1, 0.0, f"rank {rank} has left no heartbeat"))
            continue
        ago = now - beat["time"]
        samples = ", ".join(map(str, beat["ids"]))
        text = f"rank {rank}: step {beat['step']}, {beat['phase']} for {beat['since_s']:.0f} s"
        silent = f"; no heartbeat for {ago:.0f} s" if ago > silent_s else ""
        lines.append((beat["step"], -ago, f"{text}{silent}; samples {samples}"))
    return [text for _, _, text in sorted(lines)]
