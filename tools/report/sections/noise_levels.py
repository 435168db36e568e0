"""Loss by noise level: over the run, and at the last validation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from core.records import Row
from tools.pages.plots import RAMP, Look, Series, plot
from tools.report.output import Floats, Output
from tools.report.sections.curves import AXES, BELOW, Run, runs_of

DECILES = "loss_by_decile"
LEVELS = len(RAMP)


def noise_levels(outputs: Sequence[Output]) -> str:
    """Return charts of the loss at each tenth of the noise levels, and one of the last validations."""
    runs = runs_of(outputs)
    figures = [figure for run in runs if (figure := _over_run(run))]
    last = [each for run in runs if (each := _last(run)) is not None]
    look = Look("Last validation by noise level", below="noise level: 0 data, 1 noise")
    if last and (figure := plot(look, last)):
        figures.append(f"<div>{figure}</div>")
    return f"<div class=charts>{''.join(figures)}</div>" if figures else ""


def _over_run(run: Run) -> str:
    rows = [_levels(row) for row in run.history.rows]
    table = np.array([row for row in rows if row is not None])
    at = run.history.at[[row is not None for row in rows]]
    if not len(table):
        return ""
    name = f": {run.output.name}" if run.several else ""
    figures = []
    for axis in AXES:
        x = run.x(axis)[at]
        series = [_smooth(x, table[:, level], level) for level in range(LEVELS)]
        look = Look(f"Loss by noise level{name}", below=BELOW[axis], logarithmic=True)
        figures.append(f'<div class="by-{axis}">{plot(look, series)}</div>')
    return f"<div>{''.join(figures)}</div>"


def _levels(row: Row) -> list[float] | None:
    """Return the ten losses, NaN where no sample fell; None where the row has none."""
    return _ten(row.get(DECILES))


def _ten(values: Any) -> list[float] | None:
    if not isinstance(values, list) or not values:
        return None
    found = [value if isinstance(value, (int, float)) else np.nan for value in values[:LEVELS]]
    return [*found, *[np.nan] * (LEVELS - len(found))]


def _smooth(x: Floats, y: Floats, level: int, most: int = 80) -> Series:
    """Return the means of at most `most` stretches, since a step has few samples of a level."""
    name = f"{level / LEVELS:.1f} to {(level + 1) / LEVELS:.1f}"
    there = np.isfinite(y)
    x, y = x[there], y[there]
    if len(x) > most:
        first = np.linspace(0, len(x), most + 1).astype(np.int64)[:-1]
        counts = np.diff(first, append=len(x))
        x, y = np.add.reduceat(x, first) / counts, np.add.reduceat(y, first) / counts
    return Series(name, x, y, RAMP[level], band=False)


def _last(run: Run) -> Series | None:
    for row in reversed(run.history.validation):
        part = row.get("raw")
        if isinstance(part, dict) and (values := _ten(part.get(DECILES))) is not None:
            middle = (np.arange(LEVELS) + 0.5) / LEVELS
            return Series(run.output.name, middle, np.array(values), run.colour, dots=True)
    return None
