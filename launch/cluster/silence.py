"""Measure how long none of a job's ranks has written a heartbeat into the run's `logs/`."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import NotRequired, TypedDict

from core.errors import WorkError
from core.files import published
from launch.cluster.records import read_record

SILENT_S = 600.0  # without a heartbeat of any rank, in a run that has left some; longer where that says so


class _Beat(TypedDict):
    """Time limits of a heartbeat: how long a rank may stay in its present phase; 0 is no limit."""

    limit_s: NotRequired[float]


class Silence:
    """Watches the heartbeats in `logs`."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._alive = ""  # a heartbeat that was young when last looked at

    def seconds(self, started: Callable[[], float]) -> float:
        """Return the seconds since the last heartbeat of any rank where that is too long; else 0.

        started: says when the ranks were; a heartbeat before that is of an earlier start.
        """
        if self._alive and _age_of(self._logs / self._alive) <= SILENT_S:
            return 0.0  # one living rank is enough: the other files are not read
        found = published(self._logs, "heartbeat-rank-*.json")
        self._alive = next((path.name for path in found if _age_of(path) <= SILENT_S), "")
        if self._alive:
            return 0.0
        newest = max((path.stat().st_mtime for path in found if path.exists()), default=0.0)
        silent_s = time.time() - newest
        if silent_s <= SILENT_S or newest <= started():
            return 0.0
        # A phase may take longer: storage that holds up a save holds up heartbeats too. 0 is no limit.
        limits = [_limit_of(path) for path in found]
        return silent_s if 0 not in limits and silent_s > max(limits, default=SILENT_S) else 0.0


def _age_of(path: Path) -> float:
    """Return the seconds since the file was written; without end where there is none."""
    try:
        return time.time() - path.stat().st_mtime
    except OSError:
        return math.inf


def _limit_of(heartbeat: Path) -> float:
    """Return how long a rank may stay in its present phase.

    A damaged heartbeat does not end the supervisor.
    """
    try:
        beat = read_record(heartbeat, _Beat)
    except WorkError:
        return SILENT_S
    return beat.get("limit_s", SILENT_S) if beat else SILENT_S
