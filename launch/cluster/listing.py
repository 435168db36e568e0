"""List submitted jobs: state, starts, nodes, last step, rate, when they will end, the last error."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from core import environment, terminal
from core.config.yaml_files import read_recorded
from core.errors import UserError, WorkError
from core.progress import aligned, duration
from core.records import number, read_last
from core.run.folder import METRICS
from launch.cluster import records, slurm
from launch.cluster.records import ENDED, JOB_FILE, AttemptRecord, Submission, SubmissionRecord

HEADER = ("run", "state", "starts", "nodes", "step", "rate", "left", "last word")


RECENT = 20  # steps that say how fast a run is


def main(words: Sequence[str]) -> int:
    """Run `longtake jobs [RUN ...]`; without a name, list all that this user has submitted."""
    if any(word.startswith("-") or "=" in word for word in words):
        terminal.deliver("usage: longtake jobs [RUN ...]\n\n" + str(__doc__))
        return 0 if {"--help", "-h"} & set(words) else 2
    outputs = [Path(word) for word in words] or records.remembered()
    for output in outputs:
        if not records.submissions(output):
            raise UserError("source", output, "the output of a job that was submitted")
    for line in aligned([HEADER, *(_row(output) for output in outputs)]):
        terminal.deliver(line)
    return 0


def state_of(submission: Submission) -> tuple[str, str]:
    """Return the state of a job and its reason: what its supervisor wrote, corrected by what SLURM knows.

    An array is at work while any of its tasks is, and done when one is that the others leave nothing to do.
    """
    record = submission.read()
    tasks = record["cluster"].get("array", 0)
    if not isinstance(tasks, int):
        raise WorkError(f"{submission.folder}: cluster.array={tasks!r} of what was submitted is no number")
    job = str(record.get("slurm_job") or _queued_job(record))
    if tasks < 2:  # submitit makes no array of one task
        return _state(submission.attempt_records(), record, job)
    found = [
        _state(submission.attempt_records(task), record, f"{job}_{task}" if job else "")
        for task in range(tasks)
    ]
    states = [state for state, _ in found]
    at_work = [state for state in dict.fromkeys(states) if state not in (*ENDED, "lost")]
    first = ("running", *at_work) if at_work else ("done", *dict.fromkeys(states))
    state = next(state for state in first if state in states)
    counts = ", ".join(f"{states.count(each)} {each}" for each in dict.fromkeys(states))
    reasons = [reason for _, reason in found if reason]
    return state, "; ".join([f"{tasks} tasks: {counts}", *reasons[:1]])


def _queued_job(record: SubmissionRecord) -> str:
    """Return SLURM's number of a job whose submitter was killed before it wrote that down; '' for none."""
    if record["cluster"].get("kind") != "slurm":
        return ""
    return next(iter(slurm.jobs_named(record["name"])), "")


def _state(attempts: Sequence[AttemptRecord], record: SubmissionRecord, job: str) -> tuple[str, str]:
    """Return the state of one task and its reason. job: its number in SLURM, '' if it was not queued."""
    last: AttemptRecord = attempts[-1] if attempts else {}
    state, reason = last.get("state", "queued"), last.get("reason", "")
    if state in ENDED:
        return state, reason
    if record["cluster"].get("kind") != "slurm":
        is_here = last.get("node") in (None, environment.node())
        if state == "running" and is_here and not records.lives(last.get("pid", 0)):
            return "lost", "its supervisor was killed; submit it again to continue"
        return state, reason
    if not job:
        return "not queued", "the submission was interrupted; submit it again"
    facts = slurm.job_facts(job)
    now = facts.get("JobState", "")
    if now in ("PENDING", "RUNNING", "COMPLETING", "CONFIGURING", "REQUEUED", "SUSPENDED"):
        why = facts.get("Reason", "None")
        waits = now == "PENDING"
        shown = "queued" if waits and not attempts else "requeued" if waits else now.lower()
        return shown, reason or ("" if why == "None" else why)
    how = f"SLURM says {now}" if now else "SLURM knows no such job any more"
    return "lost", f"{how}, and its supervisor wrote nothing; submit it again to continue"


def _row(output: Path) -> tuple[str, ...]:
    submission = records.latest(output)
    attempts = submission.attempt_records()
    state, reason = state_of(submission)
    nodes = ",".join(dict.fromkeys(last.get("nodes", "") for last in submission.latest_records()))
    step, rate, left = _pace(output, submission)
    return str(output), state, str(len(attempts)), nodes, step, rate, left, " ".join(reason.split())


def _pace(output: Path, submission: Submission) -> tuple[str, str, str]:
    """Return the last step of training, its rate, and the time that is left."""
    path = output / METRICS
    if not (rows := read_last(path, RECENT)):
        return "", "", ""
    trainer = read_recorded(submission.folder / JOB_FILE).get("trainer")
    steps = trainer.get("steps") if isinstance(trainer, dict) else 0
    steps = steps if isinstance(steps, int) else 0
    recent = [seconds for row in rows if (seconds := number(row, "seconds"))]
    each = sum(recent) / len(recent) if recent else 0.0
    step, age = rows[-1].get("step", 0), time.time() - path.stat().st_mtime
    left = duration(each * (steps - step)) if steps > step and each and age < 3600 else ""
    return f"{step}/{steps}", f"{1 / each:.3g}/s" if each else "", left
