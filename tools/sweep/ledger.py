"""The ledger of a sweep, `sweep.jsonl`: which runs were planned, and what has become of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypedDict

from core.errors import UserError
from core.reading import json_files
from core.records import append_shared, iterate
from core.run.folder import SWEEP

SHOWN = 3  # runs that a refusal names


class Planning(TypedDict):
    """A row that says which runs a start of the sweep planned.

    data: fingerprint of the samples that are learned from and validated on.
    """

    planned: list[str]
    data: str


class Result(TypedDict):
    """A row of a run that has ended.

    done: its loss was taken.  diverged: it is not finite, or far above that of the first steps.
    failed: there is none.  parameters: N.  samples: D.  flops: of its training.
    flops_per_sample: of its network.  losses: by weights, raw or an average.
    reason: why it failed or diverged.  fields: what it changes of the sweep's config.
    """

    run: str
    state: Literal["done", "diverged", "failed"]
    held_out: bool
    budget: float
    parameters: int
    samples: float
    flops: float
    flops_per_sample: float
    steps: int
    losses: dict[str, float | None]
    seconds: float
    reason: str
    fields: dict[str, str]


def results(output: Path) -> dict[str, Result]:
    """Return the newest row of every run that has ended, in the order in which they first did."""
    found: dict[str, Result] = {}
    for row in _rows(output):
        if "run" in row:
            result = json_files.checked(row, Result, output / SWEEP)
            found[result["run"]] = result
    return found


def add(output: Path, result: Result) -> None:
    """Append a run's row durably."""
    append_shared(output / SWEEP, result)


def begin(output: Path, planned: Sequence[str], data: str) -> list[str]:
    """Note what is planned, unless that is noted; return the runs that are new.

    UserError where the ledger has runs that are not planned now, or was made from other data.
    """
    before = earlier(output)
    require_same(output, before, planned, data)
    new = [name for name in planned if name not in (before or {"planned": []})["planned"]]
    if new or before is None:
        row: Planning = {"planned": list(planned), "data": data}
        append_shared(output / SWEEP, row)
    return new


def earlier(output: Path) -> Planning | None:
    """Return what was planned last; None for a new sweep."""
    rows = [row for row in _rows(output) if "planned" in row]
    return json_files.checked(rows[-1], Planning, output / SWEEP) if rows else None


def require_planned(output: Path, before: Planning | None, planned: Sequence[str]) -> None:
    """Raise UserError where the ledger has runs that the sweep file does not."""
    if before is None:
        return
    if gone := [name for name in before["planned"] if name not in planned]:
        others = f" and {len(gone) - SHOWN} more" if len(gone) > SHOWN else ""
        raise UserError(
            f"{output / SWEEP} is the ledger of another sweep: it has {', '.join(gone[:SHOWN])}{others}, "
            "which "
            "this one does not plan; a sweep may gain runs and lose none"
        )


def require_same(output: Path, before: Planning | None, planned: Sequence[str], data: str) -> None:
    """Raise UserError where the ledger is of another sweep file, or of other data."""
    require_planned(output, before, planned)
    if before is None:
        return
    if before["data"] != data:
        raise UserError(
            f"{output / SWEEP} is the ledger of a sweep over other samples to learn from or to validate on: "
            "its losses could not be compared with new ones; expected source, validation_source, "
            "validation.samples and validation.strata as they were"
        )


def rate(found: Mapping[str, Result]) -> float | None:
    """Return the FLOP/s of all runs done together, 1 process each; None before one is done."""
    done = [row for row in found.values() if row["state"] == "done" and row["seconds"] > 0]
    seconds = sum(row["seconds"] for row in done)
    return sum(row["flops"] for row in done) / seconds if seconds else None


def _rows(output: Path) -> list[dict[str, Any]]:
    return list(iterate(output / SWEEP))
