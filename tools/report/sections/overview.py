"""The top of the page: what was read, in what state it is, and what could not be read."""

from __future__ import annotations

from collections.abc import Sequence

from core.escaping import in_html
from tools.pages.plots import COLOURS
from tools.report.output import Output


def overview(outputs: Sequence[Output]) -> str:
    """Return one output's facts as a list, or a table for each kind of several."""
    if len(outputs) == 1:
        facts = {"kind": outputs[0].kind, "state": outputs[0].state, **outputs[0].facts}
        items = "".join(
            f"<div><dt>{in_html(name)}</dt><dd>{in_html(value)}</dd></div>" for name, value in facts.items()
        )
        return f"<dl class=facts>{items}</dl>"
    return "".join(_table(outputs, kind) for kind in dict.fromkeys(output.kind for output in outputs))


def _table(outputs: Sequence[Output], kind: str) -> str:
    """Return a table with a column for each output of a kind, and a row for each fact."""
    found = [(number, output) for number, output in enumerate(outputs) if output.kind == kind]
    head = f"<th>{in_html(kind)}</th>"
    for number, output in found:
        mark = f'<i class=key style="background:{COLOURS[number % len(COLOURS)]}"></i>'
        head += f'<th title="{in_html(output.folder)}">{mark}{in_html(output.name)}</th>'
    facts = [{"state": output.state, **output.facts} for _, output in found]
    rows = ""
    for name in dict.fromkeys(name for each in facts for name in each):
        cells = "".join(f"<td class=n>{in_html(each.get(name, ''))}</td>" for each in facts)
        rows += f"<tr><td>{in_html(name)}</td>{cells}</tr>"
    return f"<div class=wide><table><tr>{head}</tr>{rows}</table></div>"


def troubles(outputs: Sequence[Output]) -> str:
    """Return what is missing or damaged, by output."""
    items = [
        f"<li><b>{in_html(output.name)}</b> {in_html(trouble)}</li>"
        for output in outputs
        for trouble in output.troubles
    ]
    return f"<ul class=troubles>{''.join(items)}</ul>" if items else ""
