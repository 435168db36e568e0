"""Read the outcome of a run from its folder once it has ended."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TypedDict

from core.reading import json_files
from core.records import iterate, number, read_last
from core.run.folder import FINISHED, METRICS, VALIDATION
from tools.sweep.ledger import Result
from tools.sweep.resolving import SweepRun

FIRST_STEPS = 10  # whose mean loss an untrained network has
ABOVE = 1.5  # times that, where chance in few samples is no explanation


class _Finished(TypedDict):
    step: int
    samples_seen: int


def outcome(run: SweepRun, status: int, reason: str) -> Result:
    """Return the row of a run that has ended with an exit status.

    Its samples are those that it counted itself, its seconds those of its steps.
    """
    folder = Path(run.config.output)
    samples, losses, state = run.samples, dict[str, float | None](), "failed"
    if status == 0 and (folder / FINISHED).is_file():
        samples = float(json_files.read(folder / FINISHED, _Finished)["samples_seen"])
        losses = _losses(folder, run.config.trainer.steps)
        reason = _divergence(folder, losses)
        state = "diverged" if reason else "done"
    return {
        "run": run.name,
        "state": state,  # type: ignore[typeddict-item]
        "held_out": run.planned.held_out,
        "budget": run.budget,
        "parameters": run.parameters,
        "samples": samples,
        "flops": run.flops * samples / run.samples,
        "flops_per_sample": run.flops / run.samples,
        "steps": run.config.trainer.steps,
        "losses": losses,
        "seconds": round(math.fsum(number(row, "seconds") or 0.0 for row in iterate(folder / METRICS)), 2),
        "reason": reason,
        "fields": dict(run.planned.fields),
    }


def _losses(folder: Path, step: int) -> dict[str, float | None]:
    """Return the validation losses after the last step, by weights; {} where there are none."""
    for row in read_last(folder / VALIDATION, 1):
        if row.get("step") == step:
            return {name: number(part, "loss") for name, part in row.items() if isinstance(part, dict)}
    return {}


def _divergence(folder: Path, losses: dict[str, float | None]) -> str:
    """Say why the losses cannot be of a network that has learned; '' if they can."""
    if not losses:
        return "its validation has no row after the last step"
    if broken := [name for name, loss in losses.items() if loss is None]:
        return f"its validation loss is not finite ({', '.join(broken)})"
    first = [value for row in _first_rows(folder) if (value := number(row, "loss")) is not None]
    raw, start = losses.get("raw"), math.fsum(first) / len(first) if first else math.inf
    if raw is not None and raw > ABOVE * start:
        return f"its validation loss {raw:.4g} is above {ABOVE:g} times that of its first steps, {start:.4g}"
    return ""


def _first_rows(folder: Path) -> list[dict[str, object]]:
    found = []
    for row in iterate(folder / METRICS):
        found.append(row)
        if len(found) == FIRST_STEPS:
            break
    return found
