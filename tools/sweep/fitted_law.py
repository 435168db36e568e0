"""The law of a sweep's runs with all that follows from it: optimum, predictions, held-out runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from operator import attrgetter
from typing import Any

import numpy as np

from core.errors import UserError
from tools.sweep import intervals, law, parabolas
from tools.sweep.intervals import Cost, Interval
from tools.sweep.law import Law, Points
from tools.sweep.ledger import Result

BEYOND = 10.0  # times the largest budget of the fit, where no target is given


@dataclass(frozen=True)
class FittedLaw:
    """A law and what it was fitted to.  rows: fitted runs.  held_out: runs kept out.  target: a budget."""

    law: Law
    cost: Cost
    rows: Sequence[Result]
    held_out: Sequence[Result]
    loss: str
    target: float

    @cached_property
    def budgets(self) -> list[parabolas.Parabola]:
        """The parabola of each budget with enough sizes."""
        found = []
        for budget in sorted({row["budget"] for row in self.rows}):
            points = points_of([row for row in self.rows if row["budget"] == budget], self.loss)
            one = parabolas.parabola(budget, points.N, points.loss)
            found += [one] if one is not None else []
        return found

    @cached_property
    def growth(self) -> parabolas.Growth | None:
        """How the vertices of the parabolas grow with the budget."""
        return parabolas.growth(self.budgets)

    def parabolas_told(self) -> str:
        """Say the exponent of the parabolas' vertices."""
        if self.growth is None:
            return "not known: fewer than 2 budgets have a minimum among their sizes"
        if self.growth.error is None:
            return f"{self.growth.exponent:.4g} (2 budgets: no interval)"
        vertices = sum(each.N is not None for each in self.budgets)
        reach = intervals.student_quantile((1 + intervals.LEVEL) / 2, vertices - 2) * self.growth.error
        low, high = self.growth.exponent - reach, self.growth.exponent + reach
        return f"{self.growth.exponent:.4g} ({low:.4g} to {high:.4g})"

    def of(self, quantity: Callable[[Law], float]) -> Interval:
        """Return a quantity with its interval."""
        return intervals.interval(self.law, quantity)

    def predicted(self, row: Result) -> Interval:
        """Return the loss that the law predicts of a run, with an interval for a run."""
        quantity = lambda each: float(each.loss(row["parameters"], row["samples"]))  # noqa: E731
        return intervals.interval(self.law, quantity, of_a_run=True)

    def record(self) -> dict[str, Any]:
        """Return everything as plain values for JSON."""
        cost, target = self.cost, self.target
        at_target: Any = {"cost": cost, "budget": target}
        logs: dict[str, Callable[[Law], float]] = {
            "best_parameters": partial(intervals.best_size, **at_target),
            "best_samples": partial(intervals.best_samples, **at_target),
        }
        plain: dict[str, Callable[[Law], float]] = {
            **{name: attrgetter(name) for name in ("E", "a", "b")},
            "exponent": partial(intervals.growth_exponent, cost=cost),
            "best_loss": partial(intervals.best_loss, **at_target),
        }
        return {
            "runs": len(self.rows),
            "spread": self.law.spread,
            "A": self.law.A,
            "B": self.law.B,
            "flops_per_sample": {"scale": cost.scale, "exponent": cost.exponent},
            "target": target,
            **{name: self.of(quantity)._asdict() for name, quantity in plain.items()},
            **{name: intervals.exponential(self.of(q))._asdict() for name, q in logs.items()},
            "parabolas": {
                "exponent": self.growth.exponent if self.growth else None,
                "error": self.growth.error if self.growth else None,
                "vertices": [
                    {"budget": each.budget, "parameters": each.N, "loss": each.loss} for each in self.budgets
                ],
            },
            "held_out": [self._held_out(row) for row in self.held_out],
        }

    def _held_out(self, row: Result) -> dict[str, Any]:
        found, actual = self.predicted(row), _loss(row, self.loss)
        best = min(_loss(each, self.loss) for each in self.rows)
        gap = best - actual
        return {
            "run": row["run"],
            "loss": actual,
            "predicted": found.value,
            "low": found.low,
            "high": found.high,
            "error": found.value - actual,
            "best_of_fit": best,
            "share_of_gap": abs(found.value - actual) / abs(gap) if gap else float("1e9"),
            "times_compute": row["flops"] / max(each["flops"] for each in self.rows),
        }


def fit_law(rows: Sequence[Result], loss: str, target: float) -> FittedLaw:
    """Fit the law to the runs that are not held out; UserError where they do not determine it.

    rows: of runs that are done.  target: a budget; 0 is that of the largest run held out, else 10 times that
    of the largest fitted.
    """
    fitted, held_out = ([row for row in rows if row["held_out"] == flag] for flag in (False, True))
    if not fitted:
        raise UserError(
            f"the law has {law.PARAMETERS} parameters: 0 finished runs, at least {law.LEAST_POINTS} needed"
        )
    points = points_of(fitted, loss)
    found = law.fit(points)
    cost = Cost.of(points.N, np.array([row["flops_per_sample"] for row in fitted]))
    largest = max((row["flops"] for row in held_out), default=BEYOND * max(row["flops"] for row in fitted))
    return FittedLaw(found, cost, fitted, held_out, loss, target or largest)


def points_of(rows: Sequence[Result], loss: str) -> Points:
    """Return rows as points."""
    columns = [(row["parameters"], row["samples"], _loss(row, loss)) for row in rows]
    N, D, losses = np.array(columns, float).T
    return Points(N, D, losses)


def _loss(row: Result, name: str) -> float:
    value = row["losses"][name]
    assert value is not None  # rows without it were left out
    return value
