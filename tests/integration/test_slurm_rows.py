"""Every way in which a job on SLURM is disturbed, each ending as if it had not been. Run: make test-slurm"""

from __future__ import annotations

import os
import random
import re
import signal
import sys
import time
from pathlib import Path

import pytest

from core.records import read_rows
from tests.integration.slurm_run import FIELDS, NODES, Run
from tests.integration.test_slurm import SLOW, require_equal, run
from tests.integration.tiny_run import command

__all__ = ["run"]  # a fixture
pytestmark = [pytest.mark.slurm, pytest.mark.full]
DEAF = """
import signal
signal.signal(signal.SIGUSR2, signal.SIG_IGN)
_before = signal.signal
signal.signal = lambda number, handler: None if number == signal.SIGUSR2 else _before(number, handler)
"""


def finished(run: Run, left_alone: Run, starts: int = 2) -> None:
    run.start_now(starts)
    run.finish()
    require_equal(run, left_alone)


@pytest.mark.parametrize("place", ["step.end@step=5", "save.receipt@step=11", "save.manifest"])
def test_every_rank_is_signalled_twice_in_a_step_or_a_save(run: Run, left_alone: Run, place: str) -> None:
    """The ranks get the signal and the supervisor does not, as with `scancel` without --batch."""
    run.variables = {"LONGTAKE_FAULT": f"{SLOW['LONGTAKE_FAULT']};{place}:sleep=1"}
    job = run.submit(*FIELDS)
    run.until(lambda: run.steps() > (3 if "step.end" in place else 9))
    for _ in range(2):
        run.cluster.run("scancel", "--signal=USR2", job)
    finished(run, left_alone)


def test_a_job_is_signalled_again_and_again_at_random_times(run: Run, left_alone: Run) -> None:
    draw = random.Random(0)
    job = run.submit(*FIELDS)
    for start, least in enumerate(sorted(draw.sample(range(1, 24), 2)), 1):
        run.until(lambda least=least: run.steps() > least)  # type: ignore[misc]
        time.sleep(draw.random() / 5)  # to be in a step, in a save, between them
        run.cluster.run("scancel", "--batch", "--signal=USR2", job)
        run.until(lambda start=start: run.attempts[start - 1]["state"] == "requeued")  # type: ignore[misc]
        run.start_now(start + 1)
    run.finish()
    require_equal(run, left_alone)


def test_a_job_is_signalled_during_validation(run: Run, left_alone: Run) -> None:
    """What it owes of the validation is made up for, and the training is as without any."""
    run.variables = {"LONGTAKE_FAULT": "validation.batch@rank=0:sleep=1"}
    job = run.submit(*FIELDS, "validation.every=10", "validation.samples=16")
    run.until(lambda: run.steps() == 10)
    run.cluster.run("scancel", "--batch", "--signal=USR2", job)
    finished(run, left_alone)
    validated = [row["step"] for row in read_rows(run.output / "validation.jsonl")]
    assert validated == [10, 20, 30]


def test_a_submitter_is_killed_at_each_point(run: Run, left_alone: Run) -> None:
    """The next submission takes the place of what it left, be it a job that nobody knows the number of."""
    words = command(run.cache, run.output, *NODES, *FIELDS)[3:]
    for place in ("locked", "copied", "written", "queued"):
        run.variables = {"LONGTAKE_FAULT": f"submit.{place}:kill"}
        assert run.launch("submit", *words).returncode == -signal.SIGKILL
        listed = run.launch("jobs", str(run.output)).stdout
        assert ("not queued" in listed) == (place == "written"), listed
    run.variables = {}
    refused = run.launch("submit", *words)
    assert refused.returncode == 2
    assert re.search(r"job \d+ is queued or runs", refused.stdout), refused.stdout
    replaced = run.launch("submit", str(run.output))
    assert replaced.returncode == 0, replaced.stdout
    run.finish()
    require_equal(run, left_alone)


def test_a_signal_at_the_start_is_no_start_in_vain(run: Run, left_alone: Run) -> None:
    job = run.submit(*FIELDS, "cluster.attempts=1")
    run.until(lambda: len(list(run.submission.folder.glob("attempts/*/rank-*.json"))) == 2)
    run.cluster.run("scancel", "--batch", "--signal=USR2", job)
    finished(run, left_alone)


def test_ranks_that_no_signal_reaches_find_the_word_of_the_supervisor(
    run: Run, left_alone: Run, tmp_path: Path
) -> None:
    """A container has no `scontrol` either."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site/sitecustomize.py").write_text(DEAF)
    python = tmp_path / "python"
    path = f'PATH=/bin PYTHONPATH={tmp_path}/site:"$PYTHONPATH"'
    python.write_text(f'#!/bin/sh\n{path} exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    job = run.submit(*FIELDS, f"cluster.python={python}")
    run.until(lambda: run.steps() > 2)
    run.cluster.run("scancel", "--batch", "--signal=USR2", job)
    finished(run, left_alone)
    assert "ended early on SIGUSR2" in run.last_words(0)


def test_a_job_whose_time_ends_during_a_save_is_requeued(run: Run) -> None:
    """SLURM sends SIGTERM then, as for a cancelled job, and kills the ranks soon after."""
    run.variables = {"LONGTAKE_FAULT": "save.flush@step=10:sleep=600"}
    run.submit(*FIELDS, "cluster.minutes=1", "cluster.signal_s=20")
    run.until_state("requeued")
    assert "its time limit came before its ranks had ended" in run.attempts[0]["reason"]
    run.until(lambda: run.cluster.state(run.job) == "PENDING")
    assert run.launch("cancel", str(run.output)).returncode == 0


def test_a_stopped_rank_is_told_by_the_watchdog_of_the_others(run: Run, left_alone: Run) -> None:
    run.submit(*FIELDS, "trainer.watchdog_s=20")
    run.until(lambda: run.steps() > 12)
    run.kill(1, signal.SIGSTOP)
    run.until(lambda: run.attempts[0]["state"] == "requeued")
    assert "nothing has moved" in run.attempts[0]["reason"]
    finished(run, left_alone)


def test_a_node_that_goes_down_is_done_without(run: Run, left_alone: Run) -> None:
    run.submit(*FIELDS)
    run.until(lambda: run.steps() > 12)
    run.cluster.run("scontrol", "update", "nodename=n1", "state=down", "reason=test")
    run.until(lambda: run.cluster.state(run.job) == "PENDING")
    run.cluster.tell("scontrol", "update", "nodename=n1", "state=resume")  # or it has come back by itself
    finished(run, left_alone)


def test_a_node_that_fails_first_twice_is_left_out(run: Run) -> None:
    run.submit(*FIELDS, "cluster.nodes=1")
    for start in (1, 2):
        run.until(lambda start=start: run.steps() > 8 * start)  # type: ignore[misc]
        first = run.attempts[-1]["nodes"]
        run.kill(0, signal.SIGKILL)
        run.until(lambda start=start: run.attempts[start - 1]["state"] == "requeued")  # type: ignore[misc]
        run.start_now(start + 1)
    run.finish()
    assert [attempt["nodes"] for attempt in run.attempts[:2]] == [first, first]
    assert run.attempts[1]["excluded"] == first
    assert run.attempts[2]["nodes"] != first


def test_a_killed_supervisor_leaves_a_run_that_can_be_submitted_again(run: Run, left_alone: Run) -> None:
    run.submit(*FIELDS)
    run.until(lambda: run.steps() > 12)
    os.kill(run.attempts[0]["pid"], signal.SIGKILL)
    run.until(lambda: run.cluster.state(run.job) in ("FAILED", "CANCELLED"))
    assert " lost " in run.launch("jobs", str(run.output)).stdout
    again = run.launch("submit", str(run.output))
    assert again.returncode == 0, again.stdout
    run.finish()
    require_equal(run, left_alone)


def test_a_run_moves_from_two_nodes_to_one_and_back(run: Run, left_alone: Run) -> None:
    """Its order stays; its numbers agree to rounding."""
    run.submit(*FIELDS)
    for nodes, least in ((1, 5), (2, 12)):
        run.until(lambda least=least: run.steps() > least)  # type: ignore[misc]
        moved = run.launch("submit", str(run.output), f"cluster.nodes={nodes}")
        assert moved.returncode == 0, moved.stdout
    run.finish()
    hashes = [[row["order_hash"] for row in one.rows()] for one in (run, left_alone)]
    assert hashes[0] == hashes[1]
    losses = [[row["loss"] for row in one.rows()] for one in (run, left_alone)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_a_time_limit_is_kept_without_a_signal(run: Run, left_alone: Run) -> None:
    """SLURM would signal only when it is too late."""
    run.variables = {"LONGTAKE_FAULT": "step.end@step=15:sleep=55"}
    run.submit(*FIELDS, "cluster.minutes=2", "cluster.signal_s=1")
    run.until(lambda: run.attempts and run.attempts[0]["state"] == "requeued")
    assert "ended early on the time limit" in run.last_words(0)
    finished(run, left_alone)


def test_a_wrong_config_is_not_started_again(run: Run) -> None:
    job = run.submit(*FIELDS, "data.rank_multiple=8")
    run.finish()
    assert run.cluster.state(job) == "COMPLETED"
    refused = run.launch("submit", str(run.output), "optimizer.lr=0.5")
    assert refused.returncode == 2, refused.stdout
    assert "optimizer.lr=0.5: expected 0.0001" in refused.stdout
    assert f"output=NEW initial={run.output}" in refused.stdout


def test_what_slurm_does_not_have_is_refused(run: Run) -> None:
    words = command(run.cache, run.output, *FIELDS)[3:]
    for field, message in (
        ("partition=none", "longtake submit: cluster.partition=none: expected one of debug"),
        (
            "nodes=4",
            "longtake submit: cluster.nodes=4: expected at most 2, the nodes of the default part",
        ),
        ("constraint=none", "longtake submit: sbatch refused the job: "),
    ):
        refused = run.launch("submit", *words, f"cluster.{field}")
        assert refused.returncode == 2, refused.stdout
        assert message in refused.stdout
