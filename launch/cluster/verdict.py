"""Decide whether a job is done, started again or given up when its ranks have ended, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from core.errors import CONTINUABLE
from launch.cluster.records import AttemptRecord, RankEnd

Outcome = Literal["done", "again", "failed", "cancelled"]
# The first of these that a rank told, by time, is the cause; what peers tell follows from it.
_FINAL = ("refused", "work", "memory")


@dataclass(frozen=True)
class Verdict:
    """outcome: what becomes of the job.  reason: the first error, for a person.

    node: where it failed first, '' where nothing points to a node.  asked: whether it ended on request.
    unfit: nodes that were found unfit before the first step.
    """

    outcome: Outcome
    reason: str
    node: str = ""
    asked: bool = False
    unfit: tuple[str, ...] = ()


def judge(ends: Sequence[RankEnd], status: int, size: int, asked: str) -> Verdict:
    """Decide over all ranks.

    ends: each rank's report of its end (`core/run/ends.py`), or of its beginning where it left no other.
    status: of the command that started them.  size: how many there should be.
    asked: 'cancel' or 'requeue' where the supervisor was told to end the job, else ''.
    """
    by_time = sorted(ends, key=lambda end: end["time"])
    causes = [end for end in by_time if end["kind"] not in ("running", "done", "asked", "peer")]
    silent = [end for end in by_time if end["kind"] == "running"]
    if status == 0 and not causes:
        return Verdict("done", "")
    for end in causes:
        if end["kind"] in _FINAL:
            return Verdict("failed", _said(end), asked=bool(asked))
    if asked == "cancel":
        return Verdict("cancelled", "cancelled", asked=True)
    bugs = [end for end in causes if end["kind"] == "error"]
    if bugs and len(bugs) >= size:
        return Verdict("failed", f"every rank: {_said(bugs[0])}")
    if causes:
        unfit = {end["node"] for end in causes if end["kind"] == "node"}
        return Verdict("again", _said(causes[0]), causes[0]["node"], unfit=tuple(sorted(unfit)))
    if asked or any(end["kind"] == "asked" for end in by_time) or (not by_time and status == CONTINUABLE):
        return Verdict("again", "ended early, and continues", asked=True)
    if silent:
        first, nodes = silent[0], {end["node"] for end in silent}
        blamed = first["node"] if len(nodes) == 1 else ""  # of several nothing says which came first
        return Verdict("again", f"rank {first['rank']} on {first['node']} ended without a word", blamed)
    if not by_time:
        return Verdict("again", f"no rank began; srun ended with status {status}")
    return Verdict("again", f"lost connections between ranks: {_said(by_time[0])}")


def _said(end: RankEnd) -> str:
    text = end["text"] or f"ended with status {end['status']}"
    return f"rank {end['rank']} on {end['node']}: {text}"


def in_vain(attempts: Sequence[AttemptRecord], most: int) -> str:
    """Say why a job is given up that has ended `most` times in a row without a new step.

    '' while it is not.

    attempts: the records of all its starts, oldest first. One that was asked to end does not count.
    """
    best, count, reason = attempts[0].get("progress_before", 0), 0, ""
    for attempt in attempts:
        progress = attempt.get("progress", best)
        if progress > best:
            best, count = progress, 0
        elif not attempt.get("asked"):
            count += 1
            reason = attempt.get("reason") or "it was lost without a word"
    return f"{count} starts in a row without a new step; the last: {reason}" if count >= most else ""
