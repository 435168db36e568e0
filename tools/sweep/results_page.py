"""The page of a sweep: one self-contained HTML file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from core.escaping import in_html
from tools.pages import xy_figures as figures
from tools.pages.page import page, section
from tools.pages.xy_figures import Figure
from tools.sweep.fitted_law import FittedLaw
from tools.sweep.ledger import Result

LEAD = "Training runs of several sizes and budgets, and the law that their validation losses follow."
NOTE = (
    "N is the number of parameters, D of samples trained on, C of FLOPs (exact, 6 per multiply-accumulate of "
    "a forward pass, 8 to 14 for objectives of few steps). Intervals are of 90 %, studentised. The law is "
    "fitted by variable projection (Hoffmann et al. 2022, approach 3; Golub and Pereyra 1973), parabolas per "
    "budget (approach 2)."
)


class Results(NamedTuple):
    """The results of a sweep.

    rows: of all runs that have ended.  loss: the one that is fitted.  lines: the fit in words.  drawn: its
    figures by name.  law: None of a grid, or where the runs do not determine it.  missing: runs not ended.
    """

    rows: Sequence[Result]
    loss: str
    lines: Sequence[str]
    drawn: Mapping[str, Figure]
    law: FittedLaw | None
    missing: Sequence[str] = ()


def render(output: Path, results: Results) -> str:
    """Return the page."""
    return page(f"Sweep {output.name}", LEAD, "\n".join(sections(results)))


def sections(results: Results, name: str = "") -> list[str]:
    """Return the sections of the page, which a report about a sweep has, too.

    name: of the sweep, for the headings where there are several.
    """
    of = f" of {name}" if name else ""
    items = "".join(f"<li>{in_html(line)}</li>" for line in results.lines)
    note = f"<p><small>{in_html(NOTE)}</small></p>" if results.law else ""
    return [
        section(f"In short{of}", f"<ul>{items}</ul>{note}" if items else ""),
        section(f"Figures{of}", "".join(figures.svg(each) for each in results.drawn.values())),
        section(f"Runs{of}", _table(results)),
    ]


def _table(results: Results) -> str:
    rows, loss, found = results.rows, results.loss, results.law
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
    cells += [f"<tr><td>{in_html(name)}<td><td><td><td><td><td>missing</tr>" for name in results.missing]
    return f"<div class=wide><table><tr>{head}</tr>{''.join(cells)}</table></div>"
