"""The frame of a plot: its size and look, where values lie in it, grid and ticks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from core.escaping import in_html
from tools.pages.axes import Axis, shown

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 460, 236, 54, 10, 12, 38  # pixels
STYLE = """
figure { margin: 0; min-width: 0; }
figure svg { width: 100%; height: auto; display: block; margin: 0; }
figure svg text { font: 13px system-ui, sans-serif; }
figcaption { display: flex; flex-wrap: wrap; gap: 0 .9rem; align-items: baseline; }
.legend { display: flex; flex-wrap: wrap; gap: 0 .8rem; font-size: .8rem; }
.legend i { display: inline-block; width: .8em; height: .8em; border-radius: 2px; margin-right: .3em; }
.legend b { font-weight: 600; font-variant-numeric: tabular-nums; }
.grid { stroke: #8884; fill: none; stroke-width: .7; } svg text.unit { opacity: .75; }
.hover { fill: #8880; } .hover:hover { fill: #8883; }
.mark path { stroke: currentColor; }
.mark.start path { stroke-dasharray: 4 3; fill: none; stroke-opacity: .6; }
.mark.ranks path { stroke: #b04ad1; stroke-width: 1.5; fill: none; }
.mark.incident path { fill: #dc2626; stroke: #dc2626; }
.mark.checkpoint path { fill: currentColor; stroke: none; }
.lost path { stroke: #dc2626; stroke-width: 1.6; fill: none; }
"""


def x_of(value: float, across: Axis) -> float:
    """Return the pixel of a value on the lower axis."""
    return LEFT + (WIDTH - LEFT - RIGHT) * across.share(value)


def y_of(value: float, up: Axis) -> float:
    """Return the pixel of a value on the axis at the left."""
    return TOP + (HEIGHT - TOP - BOTTOM) * (1 - up.share(value))


def points_of(x: NDArray[np.float64], y: NDArray[np.float64], across: Axis, up: Axis) -> list[str]:
    """Return "x,y" in pixels of each point."""
    right = LEFT + (WIDTH - LEFT - RIGHT) * across.shares(x)
    down = TOP + (HEIGHT - TOP - BOTTOM) * (1 - up.shares(y))
    return [f"{a:.1f},{b:.1f}" for a, b in zip(right.tolist(), down.tolist(), strict=True)]


def grid(below: str, across: Axis, up: Axis) -> str:
    """Draw lines at round values, which stand beside them. below: what the lower axis is."""
    parts, foot = [], HEIGHT - BOTTOM
    for value in up.ticks():
        y = y_of(value, up)
        parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{shown(value)}</text>')
    for value in across.ticks():
        x = x_of(value, across)
        parts.append(f'<path class="grid" d="M{x:.1f} {TOP}V{foot}"/>')
        anchor = "end" if x > WIDTH - 24 else "middle"
        parts.append(
            f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 19}" text-anchor="{anchor}">{shown(value)}</text>'
        )
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(
        f'<text class="unit" x="{middle}" y="{HEIGHT - 4}" text-anchor="middle">{in_html(below)}</text>'
    )
    return "".join(parts)


def svg(title: str, parts: Sequence[str]) -> str:
    """Put parts together as a picture that scales with the page."""
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{in_html(title)}">{"".join(parts)}</svg>'
    )
