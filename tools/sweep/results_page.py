"""The page of a sweep: one self-contained HTML file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from core.escaping import in_html
from tools.pages import xy_figures as figures
from tools.pages.page import page
from tools.pages.xy_figures import Figure
from tools.sweep.fitted_law import FittedLaw
from tools.sweep.ledger import Result

LEAD = "Training runs of several sizes and budgets, and the law that their validation losses follow."
NOTE = (
    "N is the number of parameters, D of samples trained on, C of FLOPs (exact, 6 per multiply-accumulate of "
    "a forward pass). Intervals are of 90 %, studentised. The law is fitted by variable projection (Hoffmann "
    "et al. 2022, approach 3; Golub and Pereyra 1973), parabolas per budget (approach 2)."
)


def render(
    output: Path,
    rows: Sequence[Result],
    loss: str,
    lines: Sequence[str],
    drawn: Sequence[Figure],
    found: FittedLaw | None,
) -> str:
    """Return the page."""
    told = "".join(f"<li>{in_html(line)}</li>" for line in lines)
    note = f"<p><small>{in_html(NOTE)}</small></p>" if found else ""
    body = [
        f"<section><h2>In short</h2><ul>{told}</ul>{note}</section>",
        f"<section><h2>Figures</h2>{''.join(figures.svg(each) for each in drawn)}</section>",
        f"<section><h2>Runs</h2>{_table(rows, loss, found)}</section>",
    ]
    return page(f"Sweep {output.name}", LEAD, "\n".join(body))


def _table(rows: Sequence[Result], loss: str, found: FittedLaw | None) -> str:
    head = "".join(f"<th>{name}" for name in ("run", "N", "D", "FLOPs", "loss", "by the law", "state"))
    cells = []
    for row in rows:
        value = row["losses"].get(loss)
        fitted = ""
        if found is not None and row["parameters"] and row["samples"]:
            fitted = f"{float(found.law.loss(row['parameters'], row['samples'])):.4f}"
        state = row["state"] + (", held out" if row["held_out"] else "")
        numbers = (
            f"{row['parameters']:,}",
            f"{row['samples']:,.0f}",
            f"{row['flops']:.3g}",
            "" if value is None else f"{value:.4f}",
            fitted,
        )
        shown = "".join(f"<td class=n>{number}" for number in numbers)
        reason = f": {row['reason']}" if row["reason"] else ""
        cells.append(f"<tr><td>{in_html(row['run'])}{shown}<td>{in_html(state + reason)}</tr>")
    return f"<table><tr>{head}</tr>{''.join(cells)}</table>"
