"""What becomes of a job whose ranks have ended, stand still, or are asked to end.

Run: pytest tests/launch/test_verdict.py
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from core.errors import WorkError
from launch.cluster import records, silence, slurm
from launch.cluster.attempt import Attempt, EndRequest, progress
from launch.cluster.config import ClusterConfig
from launch.cluster.supervisor import excluded
from launch.cluster.verdict import in_vain, judge


def end(rank: int, kind: str, text: str = "", time: float = 0.0, status: int = 1) -> dict[str, Any]:
    return {"rank": rank, "node": f"n{rank}", "kind": kind, "text": text, "time": time, "status": status}


GOES_ON = ("again", "ended early, and continues", "")
VERDICTS = [
    ([end(0, "done"), end(1, "done")], 0, "", ("done", "", "")),
    ([end(0, "refused", "x=1"), end(1, "refused", "x=1")], 2, "", ("failed", "rank 0 on n0: x=1", "")),
    # The first in time, whatever its rank: what peers say follows from it.
    ([end(0, "peer", "", 2), end(1, "work", "full", 1)], 76, "", ("failed", "rank 1 on n1: full", "")),
    ([end(0, "memory", "full", 1), end(1, "peer", "", 2)], 1, "", ("failed", "rank 0 on n0: full", "")),
    # Killed: it has begun, and says no more.
    (
        [end(0, "peer", "", 2), end(1, "running")],
        137,
        "",
        ("again", "rank 1 on n1 ended without a word", "n1"),
    ),
    # Of several that were killed nothing says which was first, so no node is to blame.
    (
        [end(0, "running"), end(1, "running")],
        137,
        "",
        ("again", "rank 0 on n0 ended without a word", ""),
    ),
    ([end(0, "device", "ECC", 1), end(1, "peer", "", 2)], 76, "", ("again", "rank 0 on n0: ECC", "n0")),
    ([end(0, "hang", "stuck", 1), end(1, "running")], 75, "", ("again", "rank 0 on n0: stuck", "n0")),
    # A bug shows on every rank; on one alone the node may be to blame.
    (
        [end(0, "error", "bug", 1), end(1, "error", "bug", 2)],
        1,
        "",
        ("failed", "every rank: rank 0 on n0: bug", ""),
    ),
    ([end(0, "error", "bug", 1), end(1, "peer", "", 2)], 1, "", ("again", "rank 0 on n0: bug", "n0")),
    (
        [end(0, "peer", "a", 1), end(1, "peer", "b", 2)],
        76,
        "",
        ("again", "lost connections between ranks: rank 0 on n0: a", ""),
    ),
    ([end(0, "asked"), end(1, "asked")], 75, "", GOES_ON),
    ([end(0, "asked"), end(1, "asked")], 75, "requeue", GOES_ON),
    ([end(0, "asked"), end(1, "asked")], 75, "cancel", ("cancelled", "cancelled", "")),
    ([], 1, "", ("again", "no rank began; srun ended with status 1", "")),
]


@pytest.mark.parametrize(("ends", "status", "asked", "expected"), VERDICTS)
def test_what_becomes_of_a_job(
    ends: list[dict[str, Any]], status: int, asked: str, expected: tuple[str, str, str]
) -> None:
    verdict = judge(ends, status, 2, asked)
    assert (verdict.outcome, verdict.reason, verdict.node) == expected


def test_unfit_nodes_are_left_out_at_once_and_those_that_fail_first_twice() -> None:
    verdict = judge([end(0, "peer", "", 1), end(1, "node", "slow", 2)], 76, 2, "")
    assert (verdict.outcome, verdict.node, verdict.unfit) == ("again", "n1", ("n1",))
    assert excluded([{"failed_node": "n1"}], verdict, "") == "n1"
    assert excluded([{"excluded": "n7"}, {"failed_node": "n1"}], verdict, "m[1,3-4],k") == "m[1,3-4],k,n7,n1"
    died = judge([end(0, "device", "ECC", 1)], 1, 2, "")
    assert excluded([{"failed_node": "n0"}], died, "k") == ""
    assert excluded([{"failed_node": "n0"}, {"failed_node": "n0"}], died, "k") == "k,n0"


def start_of(progress: int, asked: bool = False, before: int = 0) -> dict[str, Any]:
    return {"progress": progress, "asked": asked, "reason": "it broke", "progress_before": before}


def test_a_job_is_given_up_after_starts_without_a_new_step() -> None:
    assert in_vain([start_of(0), start_of(0)], 3) == ""
    assert in_vain([start_of(0)] * 3, 3) == "3 starts in a row without a new step; the last: it broke"
    assert in_vain([start_of(7), start_of(5), start_of(7)], 3) == ""
    assert in_vain([start_of(7), start_of(5), start_of(7), start_of(6)], 3) != ""
    assert in_vain([start_of(7), start_of(7), start_of(8), start_of(8)], 3) == ""
    assert in_vain([start_of(0), *[start_of(0, asked=True)] * 5, start_of(0)], 3) == ""
    lost = {"progress_before": 4}  # its supervisor was killed, too
    assert in_vain([lost, lost, lost], 3).endswith("it was lost without a word")


def test_progress_is_the_last_whole_row(tmp_path: Path) -> None:
    assert progress(tmp_path) == 0
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 12}\n{"step": 1')
    assert progress(tmp_path) == 12
    (tmp_path / "metrics.jsonl").unlink()
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts/000.npz").touch()
    assert progress(tmp_path) == 1


def test_a_request_to_end_for_good_is_not_taken_back() -> None:
    told: list[str] = []
    asked = EndRequest()
    asked.tell = lambda: told.append(asked.word)
    for number in (signal.SIGUSR2, signal.SIGUSR2, signal.SIGTERM, signal.SIGUSR2):
        asked.note(number)
    assert (asked.word, asked.why, told) == ("cancel", "SIGTERM", ["requeue", "cancel"])


class Child:
    """Ranks that do not end."""

    def wait(self, timeout: float) -> int:
        raise subprocess.TimeoutExpired("srun", timeout)


@pytest.fixture
def attempt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Attempt:
    """Make a start of a SLURM job, of which nothing runs."""
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    submission = records.new_submission(tmp_path / "run")
    return Attempt(submission, ClusterConfig(), {"job": "train", "cwd": str(tmp_path)}, EndRequest())


@pytest.mark.parametrize(
    ("facts", "end_s", "word", "outcome"),
    [
        # As SLURM 23 says it to the supervisor that asks on SIGTERM.
        ("JobState=COMPLETING Reason=TimeLimit TimeLimit=00:01:00", 2e10, "requeue", "again"),
        ("JobState=COMPLETING Reason=None TimeLimit=00:01:00", 0.0, "cancel", "cancelled"),
        ("", 2e10, "cancel", "cancelled"),  # no controller: before the end of its time, and after it
        ("", 1.0, "requeue", "again"),
    ],
)
def test_the_time_limit_is_told_from_a_cancel(
    attempt: Attempt, monkeypatch: pytest.MonkeyPatch, facts: str, end_s: float, word: str, outcome: str
) -> None:
    """SLURM sends SIGTERM for both, and kills all soon after the first, whatever ranks are at."""

    def show(*_: Any, **__: Any) -> str:
        if not facts:
            raise WorkError("Unable to contact slurm controller")
        return facts

    monkeypatch.setattr(slurm, "command", show)
    attempt.end_s = end_s
    attempt.asked.note(signal.SIGUSR2)
    attempt.asked.note(signal.SIGTERM)
    if word == "requeue":
        assert attempt.watch(Child()) is None  # type: ignore[arg-type]
    verdict = attempt.verdict(75 if word == "cancel" else None)
    assert (attempt.asked.word, verdict.outcome, verdict.asked) == (word, outcome, word == "cancel")
    attempt.asked.word, attempt.asked.why = "cancel", "SIGTERM"
    assert attempt.verdict(75).outcome == outcome  # where the ranks were quick


def test_ranks_are_ended_when_their_heartbeats_are_too_old_for_what_they_are_at(attempt: Attempt) -> None:
    attempt.folder.mkdir(parents=True)
    attempt.write(started=time.time() - 10_000)
    beat = attempt.submission.output / "logs" / "heartbeat-rank-0.json"
    assert attempt.silence.seconds(attempt.started) == 0  # it has left none yet
    beat.parent.mkdir()
    for limit_s, age_s, is_too_old in (
        (600.0, 590, False),
        (600.0, 700, True),
        (3600.0, 700, False),  # storage that holds up a save holds up heartbeats too
        (3600.0, 3700, True),
        (0.0, 9000, False),  # the run was told to wait for ever
        (600.0, 20_000, False),  # of an earlier start
    ):
        beat.write_text(json.dumps({"limit_s": limit_s}))
        os.utime(beat, (time.time() - age_s,) * 2)
        assert bool(attempt.silence.seconds(attempt.started)) == is_too_old, (limit_s, age_s)


def test_of_many_heartbeats_one_that_is_young_is_looked_at(
    attempt: Attempt, monkeypatch: pytest.MonkeyPatch
) -> None:
    logs, listed = attempt.submission.output / "logs", []
    logs.mkdir()
    for rank in range(50):
        (logs / f"heartbeat-rank-{rank}.json").write_text("{}")
    os.utime(logs / "heartbeat-rank-0.json", (1, 1))
    really = silence.published
    monkeypatch.setattr(silence, "published", lambda *words: listed.append(words) or really(*words))
    assert [attempt.silence.seconds(attempt.started) for _ in range(5)] == [0] * 5
    assert len(listed) == 1
    for path in logs.iterdir():
        os.utime(path, (time.time() - 700,) * 2)
    attempt.folder.mkdir(parents=True)
    attempt.write(started=time.time() - 10_000)
    assert attempt.silence.seconds(attempt.started) > 600
