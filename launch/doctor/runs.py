"""Report what went wrong in a run, by its records."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from core.checkpoint.store import CheckpointStore
from core.errors import UserError, WorkError
from core.files import published
from core.progress import counted, duration
from core.reading.instead import instead
from core.records import Row, number, read_last, read_rows
from core.run.claim import job_of
from core.run.folder import CHECKPOINTS, CONFIG, FINISHED, INCIDENTS, METRICS
from launch.cluster import records
from launch.doctor.finding import Finding
from launch.doctor.last_words import last_words
from launch.doctor.queue_state import of_submission

RECENT = 50  # rows that say how the run goes
SLOW_DATA = 0.2  # share of a step in which it waits for data, above which that is worth saying
QUIET_S = 600.0  # without a row, of a run that nobody says is over


def look(run: Path) -> Iterator[Finding]:
    """Yield what the run's folder says; UserError if it is no run."""
    job = job_of(run) or _submitted(run)
    if job not in ("train", "train-autoencoder"):
        raise UserError("source", run, f"the folder of a training run{instead(run)}")
    rows = read_last(run / METRICS, RECENT)
    step = rows[-1]["step"] if rows else 0
    is_over = (run / FINISHED).exists()
    yield Finding("run", f"{run}: {job}, {'finished' if is_over else 'not finished'} at step {step}")
    yield from of_submission(run)
    if not rows and not (run / CONFIG).exists():
        return  # it has not begun
    if not is_over:
        yield from last_words(run)
    yield from _checkpoints(run, step, is_over=is_over)
    yield from _progress(run, rows, is_over=is_over)
    yield from _incidents(run)
    yield from _hang(run)


def _submitted(run: Path) -> str | None:
    """Return the job of which this will be the output; None where nothing was submitted."""
    return records.latest(run).read()["job"] if records.submissions(run) else None


def _checkpoints(run: Path, step: int, *, is_over: bool) -> Iterator[Finding]:
    try:
        newest = CheckpointStore(run / CHECKPOINTS).latest()
    except (OSError, WorkError) as error:
        yield Finding("checkpoints", str(error), "note", f"longtake inspect {run}")
        return
    if newest is None and not is_over:
        yield Finding("checkpoints", "none yet: a restart begins again", "note")
    elif newest is not None:
        yield Finding("checkpoints", f"the newest is {newest.name}, of {step} steps that were recorded")


def _progress(run: Path, rows: list[Row], *, is_over: bool) -> Iterator[Finding]:
    if not rows:
        yield Finding("metrics", "no step was recorded", "note", f"see {run}/logs/rank-0.log")
        return
    losses = [number(row, "loss") for row in rows]
    if any(loss is None for loss in losses):
        share = sum(loss is None for loss in losses)
        remedy = "a smaller optimizer.lr, a longer warm-up, or model.qk_norm=true"
        yield Finding("loss", f"not finite in {share} of the last {len(rows)} rows", "note", remedy)
    waits = [wait for row in rows if (wait := number(row, "data_wait")) is not None]
    if waits and sum(waits) / len(waits) > SLOW_DATA:
        remedy = "more data.prefetch, LONGTAKE_CACHE on a local disk, or data.verify=index"
        yield Finding("data", f"{sum(waits) / len(waits):.0%} of a step waits for data", "note", remedy)
    age = time.time() - (run / METRICS).stat().st_mtime
    if not is_over and age > QUIET_S:
        yield Finding(
            "quiet", f"the last row is {duration(age)} old", "note", "the same command continues the run"
        )


def _incidents(run: Path) -> Iterator[Finding]:
    counts = Counter(str(row.get("kind", row.get("event", "incident"))) for row in read_rows(run / INCIDENTS))
    if counts:
        named = ", ".join(f"{counted(count, 'time')} {kind}" for kind, count in counts.most_common())
        yield Finding("incidents", named, "note", f"see {run / INCIDENTS}")


def _hang(run: Path) -> Iterator[Finding]:
    for path in published(run / "logs", "hang-rank-*.txt"):
        yield Finding("hang", f"where every rank was: {path}", "note")
