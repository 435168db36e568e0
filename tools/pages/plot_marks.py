"""Marks on a plot for events: starts, incidents, checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from core.escaping import in_html
from tools.pages.axes import Axis
from tools.pages.plot_frame import BOTTOM, HEIGHT, TOP, x_of

Kind = Literal["start", "ranks", "incident", "checkpoint"]


@dataclass(frozen=True)
class Mark:
    """Something that happened at x: a line through the plot, a triangle at its top or a tick at its foot."""

    x: float
    kind: Kind
    text: str
    colour: str = ""


def drawn_marks(marks: Sequence[Mark], across: Axis) -> list[str]:
    """Draw the marks that lie within the axis."""
    return [_mark(each, across) for each in _apart(marks, across)]


def _apart(marks: Sequence[Mark], across: Axis) -> list[Mark]:
    """Join marks of one kind that would stand on the same pixels; their texts are listed."""
    places: dict[tuple[Kind, int, str], list[Mark]] = {}
    for mark in marks:
        if across.low <= mark.x <= across.high:
            places.setdefault((mark.kind, round(x_of(mark.x, across) / 2), mark.colour), []).append(mark)
    joined = []
    for found in places.values():
        texts = [mark.text for mark in found[:6]] + [f"and {len(found) - 6} more"] * (len(found) > 6)
        joined.append(Mark(found[0].x, found[0].kind, "\n".join(texts), found[0].colour))
    return joined


def _mark(mark: Mark, across: Axis) -> str:
    x, foot = x_of(mark.x, across), HEIGHT - BOTTOM
    shapes = {
        "start": f"M{x:.1f} {TOP}V{foot}",
        "ranks": f"M{x:.1f} {TOP}V{foot}",
        "incident": f"M{x:.1f} {TOP + 9}l-5 -9h10z",
        "checkpoint": f"M{x:.1f} {foot}l-3.5 6h7z",
    }
    colour = f' style="color:{mark.colour}"' if mark.colour else ""
    title = f"<title>{in_html(mark.text)}</title>"
    return f'<g class="mark {mark.kind}"{colour}>{title}<path d="{shapes[mark.kind]}"/></g>'
