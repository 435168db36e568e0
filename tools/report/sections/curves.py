"""Curves of runs over steps, samples and hours, with what happened on the way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from core.escaping import in_html
from core.records import Row, number
from tools.pages.plot_marks import Mark
from tools.pages.plots import COLOURS, Look, Series, plot
from tools.report.output import Floats, History, Output
from tools.report.sections.marks import marks_of
from tools.runs.score_names import FRECHET

AXES = ("step", "samples", "hours")
BELOW = {"step": "step", "samples": "samples seen", "hours": "hours of steps"}
KNOWN = {
    *("step", "loss", "grad_norm", "lr", "applied", "passed_over", "samples", "tokens", "seconds"),
    *("samples_per_s", "tokens_per_s", "tflops_per_s", "mfu", "data_wait", "order_hash"),
}
MOST_OTHERS = 12  # charts of further numbers of rows


class Run(NamedTuple):
    """A run with its history and colour.  several: whether there are others on the page."""

    output: Output
    history: History
    colour: str
    several: bool

    def x(self, axis: str) -> Floats:
        """Return where the rows lie on an axis."""
        return {"step": self.history.step, "samples": self.history.seen, "hours": self.history.hours}[axis]

    def at_steps(self, axis: str, steps: Sequence[float]) -> Floats:
        """Return where steps lie on an axis."""
        return np.interp(np.asarray(steps, np.float64), self.history.step, self.x(axis))


Values = Callable[[Run, str], list[Series]]


def runs_of(outputs: Sequence[Output]) -> list[Run]:
    """Return those with rows, each with the colour that it has all over the page."""
    several = sum(output.history is not None for output in outputs) > 1
    return [
        Run(output, output.history, COLOURS[number % len(COLOURS)], several)
        for number, output in enumerate(outputs)
        if output.history is not None
    ]


def curves(outputs: Sequence[Output]) -> str:
    """Return all charts, each for the three axes, of which the page's switch shows one."""
    runs = runs_of(outputs)
    if not runs:
        return ""
    charts = [*_main(), *_others(runs)]
    figures = []
    for look, values in charts:
        drawn = {axis: _figure(look, values, runs, axis) for axis in AXES}
        if drawn["step"]:
            each = "".join(f'<div class="by-{axis}">{figure}</div>' for axis, figure in drawn.items())
            figures.append(f"<div>{each}</div>")
    return f"<div class=charts>{''.join(figures)}</div>{_notes(runs)}"


def _figure(look: Look, values: Values, runs: Sequence[Run], axis: str) -> str:
    series = [each for run in runs for each in values(run, axis)]
    marks = [mark for run in runs for mark in _marks(run, axis)]
    return plot(look._replace(below=BELOW[axis]), series, marks)


def _marks(run: Run, axis: str) -> list[Mark]:
    steps, found = marks_of(run.history, run.output.name if run.several else "")
    places = run.at_steps(axis, steps)
    colour = run.colour if run.several else ""
    return [Mark(float(x), kind, text, colour) for x, (kind, text) in zip(places, found, strict=True)]


def _main() -> list[tuple[Look, Values]]:
    return [
        (Look("Loss", logarithmic=True), _exact(lambda history: history.loss)),
        (Look("Validation loss", logarithmic=True), _beside(lambda history: history.validation, "loss")),
        (
            Look("Fréchet distance of latents", "of samples under each average", logarithmic=True),
            _beside(lambda history: history.evaluations, FRECHET),
        ),
        (
            Look("Gradient norm", "before clipping", logarithmic=True),
            _exact(lambda history: history.grad_norm),
        ),
        (Look("Learning rate", from_zero=True), _from_rows("lr")),
        (
            Look("Throughput", "samples/s", from_zero=True),
            _exact(lambda history: history.samples / np.where(history.seconds > 0, history.seconds, np.nan)),
        ),
        (Look("MFU", "% of the bf16 peak", from_zero=True), _from_rows("mfu", 100)),
        (Look("Arithmetic of all ranks", "TFLOP/s", from_zero=True), _from_rows("tflops_per_s")),
        (Look("Step time", "s", logarithmic=True), _exact(lambda history: history.seconds)),
        (Look("Memory, the most of any rank", "GB", from_zero=True), _of_ranks("memory_gb")),
        (Look("Data wait", "% of a step", from_zero=True), _from_rows("data_wait", 100)),
        (Look("Stalls for checkpoints", "s per report", from_zero=True), _of_ranks("save_stall_s")),
    ]


def _others(runs: Sequence[Run]) -> list[tuple[Look, Values]]:
    names = dict.fromkeys(
        name
        for run in runs
        for row in run.history.rows[:1] + run.history.rows[-1:]
        for name, value in row.items()
        if name not in KNOWN and isinstance(value, (int, float)) and not isinstance(value, bool)
    )
    return [(Look(name.replace("_", " ")), _from_rows(name)) for name in list(names)[:MOST_OTHERS]]


def _exact(take: Callable[[History], Floats]) -> Values:
    return lambda run, axis: [Series(run.output.name, run.x(axis), take(run.history), run.colour)]


def _from_rows(name: str, factor: float = 1) -> Values:
    return _taken(lambda row: number(row, name), factor)


def _of_ranks(name: str) -> Values:
    def take(row: Row) -> float | None:
        ranks = row.get("ranks")
        return number(ranks, name) if isinstance(ranks, dict) else None

    return _taken(take, 1, where_there=True)


def _taken(take: Callable[[Row], float | None], factor: float, *, where_there: bool = False) -> Values:
    columns: dict[str, Floats] = {}  # by run, each of which is drawn on three axes

    def values(run: Run, axis: str) -> list[Series]:
        name = run.output.name
        if name not in columns:
            found = [take(row) for row in run.history.rows]
            columns[name] = np.array([np.nan if value is None else value * factor for value in found])
        x, y = run.x(axis)[run.history.at], columns[name]
        there = np.isfinite(y) if where_there or not np.isfinite(y).any() else np.ones(len(y), np.bool_)
        return [Series(name, x[there], y[there], run.colour)]

    return values


def _beside(take: Callable[[History], Sequence[Row]], key: str) -> Values:
    """Draw a number of a record beside the steps: for the weights, and for each average (of several runs: for
    the first)."""

    def values(run: Run, axis: str) -> list[Series]:
        rows = [row for row in take(run.history) if isinstance(row.get("step"), int)]
        x = run.at_steps(axis, [row["step"] for row in rows])
        names = dict.fromkeys(name for row in rows for name, part in row.items() if isinstance(part, dict))
        series = []
        for place, name in enumerate(list(names)[: 2 if run.several else None]):
            parts = [row.get(name) for row in rows]
            found = [number(part, key) if isinstance(part, dict) else None for part in parts]
            y = np.array([np.nan if value is None else value for value in found])
            shown = "weights" if name == "raw" else f"average {name}"
            colour = run.colour if place == 0 or run.several else COLOURS[place % len(COLOURS)]
            if run.several:
                shown = f"{run.output.name}, {shown}" if place else run.output.name
            series.append(Series(shown, x, y, colour, dots=True, dashed=place > 0))
        return series

    return values


def _notes(runs: Sequence[Run]) -> str:
    lines = [
        "Where several steps share a column of pixels, the line is their mean and the band reaches from the "
        "least to the largest. Hours are the steps' own, added up: saves, validation and pauses between "
        "starts are not among them."
    ]
    for run in runs:
        history = run.history
        if history.is_thinned:
            lines.append(
                f"{run.output.name}: loss, gradient norm, throughput and step time are of all "
                f"{len(history.step):,} rows; the other curves and those by noise level are of "
                f"{len(history.rows):,} rows spread over them."
            )
    return "".join(f"<p><small>{in_html(line)}</small></p>" for line in lines)
