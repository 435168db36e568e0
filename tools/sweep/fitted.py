"""Fit a sweep's runs and write what came out: `fit.json`, `runs.csv`, plots and `report.html`."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from core.errors import UserError
from core.files import write_json, write_text
from core.run.folder import FIT
from data.media.drawing import draw_strokes
from data.media.pictures import write_png
from tools.pages import xy_figures as figures
from tools.sweep import ledger
from tools.sweep.fit_figures import grid_figures, law_figures
from tools.sweep.fitted_law import FittedLaw, fit_law
from tools.sweep.ledger import Result
from tools.sweep.results_page import Results, render

TABLE, PLOTS, PAGE = "runs.csv", "plots", "report.html"
FIXED = (
    "run",
    "state",
    "held_out",
    "budget",
    "parameters",
    "samples",
    "flops",
    "flops_per_sample",
    "steps",
    "seconds",
)


class FitSettings(Protocol):
    """The settings of a fit."""

    @property
    def loss(self) -> str: ...
    @property
    def target(self) -> float: ...


def fit_and_write(output: Path, settings: FitSettings, *, grid: bool) -> list[str]:
    """Fit the law to the runs that are done, and write everything; return lines that tell it.

    grid: the sweep is a grid, whose runs are only compared.  UserError where the law cannot be fitted; the
    table is written all the same.
    """
    rows = list(ledger.results(output).values())
    if not rows:
        raise UserError("output", output, "a sweep of which runs have ended")
    write_text(output / TABLE, table(rows, settings.loss))
    results = fit(rows, settings, grid=grid)
    for name, figure in results.drawn.items():
        if strokes := figures.layout(figure):
            write_png(output / PLOTS / f"{name}.png", draw_strokes(strokes, figures.WIDTH, figures.HEIGHT))
    write_text(output / PAGE, render(output, results))
    law = results.law.record() if results.law else {}
    write_json(output / FIT, {"loss": settings.loss, **law, "lines": results.lines})
    return [*results.lines, f"{output / PAGE}; plots in {output / PLOTS}, all runs in {output / TABLE}"]


def fit(rows: Sequence[Result], settings: FitSettings, *, grid: bool) -> Results:
    """Fit the law to the runs that are done; of a grid, compare them.  UserError where that cannot be."""
    loss = settings.loss
    used = [row for row in rows if is_usable(row, loss)]
    lines = [
        f"left out of the fit: {row['run']} {row['state']}: {row['reason']}"
        for row in rows
        if not is_usable(row, loss)
    ]
    if grid:
        return Results(rows, loss, [*lines, *compared(used, loss)], grid_figures(used, loss), None)
    found = fit_law(used, loss, settings.target)
    return Results(rows, loss, [*lines, *describe_fit(found)], law_figures(found), found)


def is_usable(row: Result, loss: str) -> bool:
    """Return whether a run has the loss that is fitted."""
    return row["state"] == "done" and row["losses"].get(loss) is not None


def table(rows: Sequence[Result], loss: str) -> str:
    """Return a CSV of all runs, which holds everything that a fit takes.  loss: the column that is fitted."""
    names = sorted({name for row in rows for name in row["losses"]}, key=lambda name: (name != loss, name))
    fields = list(dict.fromkeys(name for row in rows for name in row["fields"]))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*FIXED, *(f"loss_{name}" for name in names), *fields, "reason"])
    for row in rows:
        values: Mapping[str, Any] = row
        losses = [row["losses"].get(name) for name in names]
        changed = [row["fields"].get(name, "") for name in fields]
        writer.writerow([*(values[name] for name in FIXED), *losses, *changed, row["reason"]])
    return text.getvalue()


def compared(rows: Sequence[Result], loss: str) -> list[str]:
    """Return lines with the best runs of a grid."""
    ranked = sorted(rows, key=lambda row: row["losses"][loss] or 0.0)[:5]
    if not ranked:
        raise UserError("no run of the sweep is done and has a loss: there is nothing to compare")
    return [f"{place}. {row['run']}: loss {row['losses'][loss]:.5g}" for place, row in enumerate(ranked, 1)]


def describe_fit(found: FittedLaw) -> list[str]:
    """Return the fit as lines for a person."""
    law, record = found.law, found.record()
    between = lambda name: "{value:.4g} ({low:.4g} to {high:.4g})".format(**record[name])  # noqa: E731
    lines = [
        f"law: L = {law.E:.4g} + {law.A:.4g} / N^{law.a:.4g} + {law.B:.4g} / D^{law.b:.4g}, "
        f"of {len(found.rows)} runs; residuals {law.spread:.2%} of the loss",
        f"90 % intervals: E {between('E')}, a {between('a')}, b {between('b')}",
        f"N* grows as C^{between('exponent')}; by IsoFLOP parabolas {found.parabolas_told()}",
        f"at {found.target:.4g} FLOPs: N* {between('best_parameters')}, D* {between('best_samples')}, "
        f"loss {between('best_loss')}",
    ]
    for each in record["held_out"]:
        lines.append(
            f"held out: {each['run']} has {each['loss']:.4g}, predicted {each['predicted']:.4g} "
            f"({each['low']:.4g} to {each['high']:.4g}): off by {abs(each['error']):.3g}, "
            f"{each['share_of_gap']:.0%} of the gap to the best run of the fit, with "
            f"{each['times_compute']:.3g} times its largest compute"
        )
    return lines
