"""The figures of a fit: IsoFLOP curves, loss against compute, predictions with their band, residuals."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from tools.pages.xy_figures import Figure, Series
from tools.sweep import intervals
from tools.sweep.fitted_law import FittedLaw
from tools.sweep.ledger import Result

Array = NDArray[np.float64]
PLACES = 60  # of a curve
HELD_OUT = 4  # colour
LAW = 7


def law_figures(found: FittedLaw) -> dict[str, Figure]:
    """Return the figures of a fitted law, by file name."""
    return {
        "isoflop": _isoflop(found),
        "compute": _compute(found),
        "optimum": _optimum(found),
        "residuals": _residuals(found),
    }


def _isoflop(found: FittedLaw) -> Figure:
    """Draw the losses of each budget over N, with the law as a line and the parabola as dashes."""
    series = []
    for colour, budget in enumerate(sorted({row["budget"] for row in found.rows})):
        rows = [row for row in found.rows if row["budget"] == budget]
        dots = [(float(row["parameters"]), _loss(found, row)) for row in rows]
        series.append(Series(dots, colour, f"{budget:.3g} FLOPs"))
        N = np.geomspace(min(dots)[0] / 1.3, max(dots)[0] * 1.3, PLACES)
        D = budget / (found.cost.scale * N**found.cost.exponent)
        series.append(Series(list(zip(N, found.law.loss(N, D), strict=True)), colour, shape="line"))
        for each in found.budgets:
            if each.budget == budget:
                curve = np.polyval(each.coefficients, np.log(N))
                series.append(Series(list(zip(N, curve, strict=True)), colour, shape="dashes"))
    return Figure("law (lines) and parabolas (dashes) of each budget", "parameters N", "loss", series)


def _compute(found: FittedLaw) -> Figure:
    """Draw losses over FLOPs, with the smallest that the law gives and its band."""
    flops = [row["flops"] for row in [*found.rows, *found.held_out]]
    C = np.geomspace(min(flops) / 1.5, max(found.target, *flops) * 1.5, PLACES)
    ends = [found.of(partial(intervals.best_loss, cost=found.cost, budget=c)) for c in C]
    series = [
        _band(C, ends),
        Series([(c, end.value) for c, end in zip(C, ends, strict=True)], LAW, "best by the law", "line"),
        Series([(row["flops"], _loss(found, row)) for row in found.rows], 0, "runs"),
        Series([(row["flops"], _loss(found, row)) for row in found.held_out], HELD_OUT, "held out"),
        Series(
            [(row["flops"], found.predicted(row).value) for row in found.held_out],
            HELD_OUT,
            "predicted",
            "open",
        ),
    ]
    return Figure(
        "by compute, with the 90 % band of the best", "FLOPs of training", "loss", series, log_y=True
    )


def _optimum(found: FittedLaw) -> Figure:
    """Draw the best size over the budget, by the law with its band and by the vertices of the parabolas."""
    budgets = [row["budget"] for row in found.rows]
    C = np.geomspace(min(budgets) / 1.5, max(found.target, *budgets) * 1.5, PLACES)
    logs = [found.of(partial(intervals.best_size, cost=found.cost, budget=c)) for c in C]
    ends = [intervals.exponential(each) for each in logs]
    series = [
        _band(C, ends),
        Series([(c, end.value) for c, end in zip(C, ends, strict=True)], LAW, "N* by the law", "line"),
        Series([(each.budget, each.N) for each in found.budgets if each.N], 1, "vertices"),
    ]
    if found.growth is not None:
        line = [(c, found.growth.scale * c**found.growth.exponent) for c in C]
        series.append(Series(line, 1, "by parabolas", "dashes"))
    return Figure(
        "best size by budget, with its 90 % band", "budget in FLOPs", "parameters N*", series, log_y=True
    )


def _band(C: Array, ends: Sequence[intervals.Interval]) -> Series:
    """Return the outline of intervals over C."""
    above = [(float(c), end.high) for c, end in zip(C, ends, strict=True)]
    below = [(float(c), end.low) for c, end in zip(C, ends, strict=True)]
    return Series([*above, *below[::-1]], LAW, shape="band")


def _residuals(found: FittedLaw) -> Figure:
    rows = list(found.rows)
    N = np.array([row["parameters"] for row in rows])
    series = []
    for colour, budget in enumerate(sorted({row["budget"] for row in rows})):
        chosen = [place for place, row in enumerate(rows) if row["budget"] == budget]
        # A residual is (law - loss) / loss; shown is how far the loss lies above the law.
        points = [(float(N[place]), -100 * float(found.law.residuals[place])) for place in chosen]
        series.append(Series(points, colour, f"{budget:.3g} FLOPs"))
    ends = [(float(N.min()), 0.0), (float(N.max()), 0.0)]
    return Figure(
        "residuals of the fit",
        "parameters N",
        "loss above the law, %",
        [*series, Series(ends, LAW, shape="line")],
    )


def grid_figures(rows: Sequence[Result], loss: str) -> dict[str, Figure]:
    """Return the loss over the first field of a grid that holds numbers, a line for each of the others."""
    names = list(dict.fromkeys(name for row in rows for name in row["fields"]))
    numeric = [
        name for name in names if all(_number(row["fields"].get(name, "")) is not None for row in rows)
    ]
    if not numeric:
        return {}
    first = numeric[0]
    lines: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        others = " ".join(f"{name}={value}" for name, value in row["fields"].items() if name != first)
        value, height = _number(row["fields"][first]), row["losses"][loss]
        if value is not None and height is not None:
            lines.setdefault(others, []).append((value, height))
    series = []
    for colour, (label, points) in enumerate(lines.items()):
        short = " ".join(part.rpartition(".")[2] for part in label.split())
        series += [Series(sorted(points), colour, short), Series(sorted(points), colour, shape="line")]
    values = [point[0] for points in lines.values() for point in points]
    return {"grid": Figure("each run of the grid", first, "loss", series, log_x=min(values) > 0)}


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _loss(found: FittedLaw, row: Result) -> float:
    value = row["losses"][found.loss]
    return float("nan") if value is None else value
