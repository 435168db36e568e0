"""Heartbeats of ranks in `logs/`: where each one is, for its peers and for the supervisor of the job.

A heartbeat is written over the one before it, in place: opening the file is then the only operation on
metadata, at most one a rank in PERIOD_S. A new file and a rename would be several, of every rank at once.
One rank reads them all when a run hangs, and reports for all: who comes first to `claim_report`.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from core.progress import counted
from core.reading import json_files
from core.reading.json_files import Malformed

PERIOD_S = 30.0
STOP_S = 5.0  # for the last beat, on storage that may not answer
CLAIM = "hang-reported-by.txt"
SHOWN = 8  # ranks of which a report on standard error has a line
_BYTES = 512  # of every heartbeat, padded with spaces, so that one overwrites all of another
_READERS = 16  # threads: on a shared file system most of a read is waiting


class _Beat(TypedDict):
    """The content of a heartbeat.  since_s: in this phase.  ids: of the first samples of the micro-batch."""

    step: int
    phase: str
    since_s: float
    ids: list[int]
    time: float


class Heartbeat:
    """A thread that writes this rank's heartbeat every `period_s` seconds.

    A thread of its own, so that the watchdog goes on where storage does not answer.  present: its content.
    """

    def __init__(
        self, logs: Path, rank: int, present: Callable[[], Mapping[str, object]], period_s: float
    ) -> None:
        self._path, self._present, self._period_s = path_of(logs, rank), present, period_s
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def start(self) -> None:
        """Write the first heartbeat, and go on from now on."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._beat()
        self._thread.start()

    def stop(self) -> None:
        """Stop, and remove the last heartbeat."""
        self._ended.set()
        self._thread.join(STOP_S)
        self._path.unlink(missing_ok=True)

    def _run(self) -> None:
        while not self._ended.wait(self._period_s):
            self._beat()

    def _beat(self) -> None:
        """Write without fsync, since only the living read it; a full disk still takes the time of a sign."""
        text = json.dumps({**self._present(), "time": time.time()})
        try:
            file = os.open(self._path, os.O_WRONLY | os.O_CREAT)
            try:
                os.write(file, text.encode().ljust(_BYTES))
            finally:
                os.close(file)
        except OSError:  # others report it
            with contextlib.suppress(OSError):
                os.utime(self._path)


def path_of(logs: Path, rank: int) -> Path:
    """Return the path of a rank's heartbeat."""
    return logs / f"heartbeat-rank-{rank}.json"


def claim_report(logs: Path, rank: int) -> bool:
    """Return whether this rank is the first to ask since `open_report`, and so is to report for all."""
    try:
        with open(logs / CLAIM, "x", encoding="utf-8") as file:
            file.write(f"rank {rank}")
    except FileExistsError:
        return False
    return True


def open_report(logs: Path) -> None:
    """Forget who reported the hang of an earlier start (rank 0)."""
    (logs / CLAIM).unlink(missing_ok=True)


@dataclass(frozen=True)
class Place:
    """The position of a rank at its last heartbeat.

    step: -1 where it has left none.  age_s: of the heartbeat.
    """

    rank: int
    step: int
    age_s: float
    text: str


def places(logs: Path, ranks: int, now: float, silent_s: float) -> list[Place]:
    """Return every rank's place, the least advanced first; a silent one is the likely cause.

    silent_s: after how long without a heartbeat a rank is called silent.
    """

    def place(rank: int) -> Place:
        try:
            beat = json_files.read(path_of(logs, rank), _Beat)
        except (OSError, Malformed):
            return Place(rank, -1, 0.0, f"rank {rank} has left no heartbeat")
        age_s = now - beat["time"]
        samples = ", ".join(map(str, beat["ids"]))
        text = f"rank {rank}: step {beat['step']}, {beat['phase']} for {beat['since_s']:.0f} s"
        silent = f"; no heartbeat for {age_s:.0f} s" if age_s > silent_s else ""
        return Place(rank, beat["step"], age_s, f"{text}{silent}; samples {samples}")

    with ThreadPoolExecutor(_READERS) as readers:
        found = list(readers.map(place, range(ranks)))
    return sorted(found, key=lambda one: (one.step, -one.age_s, one.rank))


def shortened(found: list[Place], shown: int = SHOWN) -> list[str]:
    """Return a line for each of the first `shown` places, and one that counts the others by their step."""
    lines = [one.text for one in found[:shown]]
    steps = Counter(one.step for one in found[shown:])
    parts = [
        f"{count} in step {step}" if step >= 0 else f"{count} without a heartbeat"
        for step, count in steps.items()
    ]
    if len(parts) > 3:
        parts = [*parts[:2], f"{sum(list(steps.values())[2:])} in later ones"]
    return (
        [*lines, f"and {counted(len(found) - shown, 'other rank')}: {', '.join(parts)}"] if parts else lines
    )
