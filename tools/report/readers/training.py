"""A run of `train` or `train-autoencoder`: its history, checkpoints, and what was recorded beside them."""

from __future__ import annotations

import time
from itertools import pairwise
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from core.checkpoint import format
from core.checkpoint.store import CheckpointStore
from core.progress import counted, duration
from core.reading import json_files
from core.reading.record_columns import Columns, read_columns, rows_at
from core.records import Row, number, read_rows
from core.run.folder import (
    AUTOENCODER,
    CHECKPOINTS,
    EVALUATED,
    FINISHED,
    INCIDENTS,
    LOCK,
    METRICS,
    SCORES,
    VALIDATION,
)
from core.run.run_lock import RunLock
from tools.report.output import History, Output, Scores
from tools.report.readers.previewed import add_previews
from tools.report.readers.trying import add_pictures, tried

NAMES = ("step", "loss", "grad_norm", "seconds", "samples")
WINDOWS = 1500  # of a long record: from each come two whole rows
QUIET_S = 600.0  # without a row, after which a run counts as stopped


class _Ranks(TypedDict):
    ranks: int


def read(output: Output) -> None:
    """Fill in what the run's folder says."""
    folder = output.folder
    columns = tried(output, METRICS, lambda: read_columns(folder / METRICS, NAMES), None)
    if not (folder / METRICS).exists():
        output.troubles.append(f"{METRICS}: missing; no step was recorded yet")
    if columns is not None:
        if columns.broken:
            output.troubles.append(
                f"{METRICS}: {counted(columns.broken, 'line')} passed over, not JSON objects"
            )
        if columns.foreign:
            output.troubles.append(
                f"{METRICS}: {counted(columns.foreign, 'row')} left out, of attempts that had lost the run"
            )
        output.history = tried(output, METRICS, lambda: _history(output, columns), None)
    _state(output)
    if output.history is not None:
        _facts(output, output.history)
    _code(output)
    _beside(output)


def _history(output: Output, columns: Columns) -> History | None:
    folder, values = output.folder, columns.values
    good = np.flatnonzero(np.isfinite(values["step"]))
    if not len(good):
        return None
    values = {name: column[good] for name, column in values.items()}
    places = _places(columns.starts[good])
    kept = _kept(output, folder)
    rows = rows_at(folder / METRICS, columns.starts[good][places].tolist())
    return History(
        step=values["step"],
        seen=np.cumsum(np.nan_to_num(values["samples"])),
        hours=np.cumsum(np.nan_to_num(values["seconds"])) / 3600,
        seconds=values["seconds"],
        samples=values["samples"],
        loss=values["loss"],
        grad_norm=values["grad_norm"],
        rows=rows,
        at=places,
        starts=[(min(row, len(good) - 1), name) for row, name in columns.attempts],
        ranks=_rank_changes(rows, kept),
        checkpoints=[(step, name) for step, name, _ in kept],
        validation=tried(output, VALIDATION, lambda: read_rows(folder / VALIDATION), []),
        evaluations=tried(output, EVALUATED, lambda: read_rows(folder / EVALUATED), []),
        incidents=tried(output, INCIDENTS, lambda: read_rows(folder / INCIDENTS), []),
    )


def _places(starts: np.ndarray) -> np.ndarray:
    """Return numbers of rows: all of a short record, else of each window its first and its longest.

    The longest has the report of the ranks, which only the last row of those written at once has.
    """
    count = len(starts)
    if count <= 4 * WINDOWS:
        return np.arange(count)
    sizes = np.diff(starts, append=starts[-1])
    bounds = np.linspace(0, count, WINDOWS + 1).astype(np.int64)
    longest = [begin + int(sizes[begin:end].argmax()) for begin, end in pairwise(bounds)]
    return np.unique([*bounds[:-1].tolist(), *longest, count - 1])


def _kept(output: Output, folder: Path) -> list[tuple[int, str, int]]:
    """Return (step, name, ranks) of the complete checkpoints, oldest first; 0 ranks where damaged."""
    found = []
    for entry in reversed(CheckpointStore(folder / CHECKPOINTS).complete()):
        manifest = entry.path / format.MANIFEST
        read = tried(output, str(manifest), lambda path=manifest: json_files.read(path, _Ranks)["ranks"], 0)  # type: ignore[misc]
        found.append((entry.step, entry.path.name, read))
    return found


def _rank_changes(rows: list[Row], kept: list[tuple[int, str, int]]) -> list[tuple[int, int]]:
    counts = [(step, count) for step, _, count in kept if count]
    for row in rows:
        ranks = row.get("ranks")
        if isinstance(ranks, dict) and type(ranks.get("count")) is int and "step" in row:
            counts.append((row["step"], ranks["count"]))
    changes: list[tuple[int, int]] = []
    for step, count in sorted(counts):
        if not changes or changes[-1][1] != count:
            changes.append((step, count))
    return changes


def _state(output: Output) -> None:
    path = output.folder / METRICS
    age = time.time() - path.stat().st_mtime if path.exists() else None
    if (output.folder / FINISHED).exists():
        output.state = "finished"
    elif age is None:
        output.state, output.running = "begun, no step yet", True
    elif age < QUIET_S:
        output.state, output.running = f"running, last row {duration(age)} ago", True
    else:
        output.state = f"not finished, last row {duration(age)} ago"


def _facts(output: Output, history: History) -> None:
    facts = output.facts
    steps = output.config.get("trainer", {})
    whole = steps.get("steps") if isinstance(steps, dict) else None
    facts["steps"] = f"{int(history.step[-1]):,}" + (f" of {whole:,}" if isinstance(whole, int) else "")
    facts["samples seen"] = f"{history.seen[-1]:,.0f}"
    facts["hours of steps"] = f"{history.hours[-1]:.3g}"
    last = history.loss[-max(1, min(100, len(history.loss) // 20)) :]
    if np.isfinite(last).any():
        facts["loss"] = f"{np.nanmean(last):.4g}, the mean of {counted(int(np.isfinite(last).sum()), 'step')}"
    if best := _best_validation(history.validation):
        facts["best validation loss"] = "{:.4g} ({}, step {:,})".format(*best)
    rate = history.samples / history.seconds
    if np.isfinite(rate).any():
        facts["samples/s"] = f"{np.nanmedian(rate):.4g} (median)"
    for name, key, form in (
        ("MFU", "mfu", "{:.1%}"),
        ("TFLOP/s", "tflops_per_s", "{:.3g}"),
        ("waits for data", "data_wait", "{:.1%}"),
    ):
        values = [value for row in history.rows if (value := number(row, key)) is not None]
        if values:
            facts[name] = form.format(float(np.median(values))) + " (median)"
    if memory := [value for row in history.rows if (value := _memory(row)) is not None]:
        facts["memory of a rank"] = f"{max(memory):.3g} GB at most"
    if history.ranks:
        facts["ranks"] = " → ".join(f"{count}" for _, count in history.ranks[-6:])
    facts["starts"] = str(max(1, len(history.starts)))
    facts["incidents"] = str(len(history.incidents))
    facts["checkpoints kept"] = str(len(history.checkpoints))


def _memory(row: Row) -> float | None:
    ranks = row.get("ranks")
    return number(ranks, "memory_gb") if isinstance(ranks, dict) else None


def _best_validation(rows: list[Row]) -> tuple[float, str, int] | None:
    found = [
        (loss, name, row["step"])
        for row in rows
        for name, part in row.items()
        if isinstance(part, dict) and "step" in row and (loss := number(part, "loss")) is not None
    ]
    return min(found) if found else None


def _code(output: Output) -> None:
    code = tried(output, LOCK, RunLock(output.folder).code, None)
    if code is not None:
        output.facts["code"] = str(code)


def _beside(output: Output) -> None:
    """Add reconstructions and scores of an autoencoder, and the pictures a run has made of itself."""
    folder = output.folder
    scores = folder / AUTOENCODER / SCORES
    if output.kind == "autoencoder run" and scores.is_file():
        values: dict[str, Any] = tried(
            output, str(scores), lambda: json_files.read(scores, dict[str, Any]), {}
        )
        output.scores.append(Scores(values, {"of": f"reconstructions by {folder / AUTOENCODER}"}))
    add_pictures(output, [folder / "reconstructions.png"], "originals and their reconstructions")
    add_previews(output)
