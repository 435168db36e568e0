"""Plots as inline SVG: series over a common axis, with what happened marked on them.

Where several values share a column of pixels, the line is their mean and the band reaches from the least to
the largest; hovering over a column tells its numbers (SVG's `<title>`, which needs no script).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from core.escaping import in_html
from tools.pages.axes import Axis, axis, shown
from tools.pages.plot_frame import BOTTOM, HEIGHT, TOP, grid, points_of, svg, x_of
from tools.pages.plot_marks import Mark, drawn_marks
from tools.pages.thinning import Thinned, thinned

HOVERS = 60  # columns that tell their numbers
MOST_DOTS = 100  # of a curve, beyond which they would run together
COLOURS = ("#2f6fde", "#d9660a", "#0f9d74", "#b04ad1", "#c33b55", "#7a8a12", "#0a93b3", "#8a5a2b")
# From data to noise: apart in hue and in brightness.
RAMP = (
    "#5b3fa8",
    "#4b58c0",
    "#3f72cc",
    "#3a8cc9",
    "#3fa4ba",
    "#4cb7a0",
    "#6cc483",
    "#97cd68",
    "#c5d055",
    "#eec94b",
)
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Series:
    """A named curve.  x, y: (N,).

    dots: whether its points are drawn, as those of few measurements are.  band: whether its extremes are.
    """

    name: str
    x: Floats
    y: Floats
    colour: str
    dots: bool = False
    band: bool = True
    dashed: bool = False


class Look(NamedTuple):
    """How a plot reads its values. unit: of y.  below: what x is."""

    title: str
    unit: str = ""
    below: str = "step"
    logarithmic: bool = False
    from_zero: bool = False


def plot(look: Look, series: Sequence[Series], marks: Sequence[Mark] = ()) -> str:
    """Draw the series; "" where none has a finite value."""
    kept = [each for each in series if _drawable(each, look).any()]
    if not kept:
        return ""
    across = _across(kept)
    drawn = [(each, _thinned(each, look, across)) for each in kept]
    up = _up(look, [points for _, points in drawn])
    parts = [grid(look.below, across, up)]
    for each, points in drawn:
        parts += [_band(each, points, across, up), _line(each, points, across, up)]
    parts += _hovers(drawn, across, look)  # what follows lies over them, and tells its own text
    parts += drawn_marks(marks, across)
    for each, points in drawn:
        parts += _lost(each, points, across)
    return f"<figure>{_heading(look, drawn)}{svg(look.title, parts)}</figure>"


def _drawable(series: Series, look: Look) -> NDArray[np.bool_]:
    finite = np.isfinite(series.x) & np.isfinite(series.y)
    return finite & (series.y > 0) if look.logarithmic else finite


def _across(kept: Sequence[Series]) -> Axis:
    low = min(float(np.nanmin(each.x)) for each in kept)
    high = max(float(np.nanmax(each.x)) for each in kept)
    low = 0.0 if 0 <= low < 0.3 * high else low
    return Axis(low, high) if high > low else Axis(low - 0.5, high + 0.5)


def _thinned(series: Series, look: Look, across: Axis) -> Thinned:
    y = np.where(series.y > 0, series.y, np.nan) if look.logarithmic else series.y
    return thinned(series.x, y, (across.low, across.high))


def _up(look: Look, drawn: Sequence[Thinned]) -> Axis:
    low = min(float(points.low.min()) for points in drawn if len(points.low))
    high = max(float(points.high.max()) for points in drawn if len(points.high))
    return axis(low, high, logarithmic=look.logarithmic, from_zero=look.from_zero)


def _band(series: Series, points: Thinned, across: Axis, up: Axis) -> str:
    if not (series.band and points.is_thinned):
        return ""
    above = points_of(points.x, points.high, across, up)
    below = points_of(points.x[::-1], points.low[::-1], across, up)
    outline = " ".join(above + below)
    return (
        f'<polygon points="{outline}" fill="{series.colour}" fill-opacity=".22" stroke="{series.colour}"'
        ' stroke-opacity=".22" stroke-width=".5"/>'
    )


def _line(series: Series, points: Thinned, across: Axis, up: Axis) -> str:
    places = points_of(points.x, points.mean, across, up)
    dashes = ' stroke-dasharray="5 3"' if series.dashed else ""
    line = (
        f'<polyline points="{" ".join(places)}" fill="none" stroke="{series.colour}"'
        f' stroke-width="1.5" stroke-linejoin="round"{dashes}/>'
    )
    if len(places) > MOST_DOTS or not (series.dots or len(places) == 1):
        return line
    pairs = [place.split(",") for place in places]
    return line + "".join(f'<circle cx="{x}" cy="{y}" r="2.6" fill="{series.colour}"/>' for x, y in pairs)


def _lost(series: Series, points: Thinned, across: Axis) -> list[str]:
    """Draw a cross at the top for values that are not finite, one a pixel."""
    places: dict[int, list[float]] = {}
    for x in points.lost.tolist():
        places.setdefault(round(x_of(x, across)), []).append(x)
    return [
        f'<g class="lost"><title>{in_html(series.name)}: {len(found)} not finite, '
        f"from {shown(found[0])}</title>"
        f'<path d="M{x - 3} {TOP + 2}l6 6m0 -6l-6 6"/></g>'
        for x, found in places.items()
    ]


def _hovers(drawn: Sequence[tuple[Series, Thinned]], across: Axis, look: Look) -> list[str]:
    """Lay invisible columns over the plot, whose titles tell their numbers."""
    bounds = np.linspace(across.low, across.high, HOVERS + 1)
    parts, height = [], HEIGHT - TOP - BOTTOM
    for begin, end in pairwise(bounds.tolist()):
        lines = [line for each, points in drawn if (line := _numbers_in(each, points, begin, end))]
        if lines:
            x, width = x_of(begin, across), x_of(end, across) - x_of(begin, across)
            text = "\n".join([f"{look.below} {shown(begin)} to {shown(end)}", *lines])
            parts.append(
                f'<rect class="hover" x="{x:.1f}" y="{TOP}" width="{width:.1f}" height="{height}">'
                f"<title>{in_html(text)}</title></rect>"
            )
    return parts


def _numbers_in(series: Series, points: Thinned, begin: float, end: float) -> str:
    here = (points.x >= begin) & (points.x <= end)
    if not here.any():
        return ""
    count = int(points.counts[here].sum())
    mean = float((points.mean[here] * points.counts[here]).sum() / count)
    if count == 1:
        return f"{series.name}: {shown(mean)}"
    low, high = float(points.low[here].min()), float(points.high[here].max())
    return f"{series.name}: mean {shown(mean)}, {shown(low)} to {shown(high)} ({count:,} values)"


def _heading(look: Look, drawn: Sequence[tuple[Series, Thinned]]) -> str:
    """Return the title, and the legend with each curve's last value."""
    items = "".join(
        f'<span><i style="background:{each.colour}"></i>{in_html(each.name)} '
        f"<b>{shown(float(points.mean[-1]))}</b></span>"
        for each, points in drawn
    )
    unit = f"<span>{in_html(look.unit)}</span>" if look.unit else ""
    title = f"<strong>{in_html(look.title)}</strong>{unit}"
    return f"<figcaption>{title}<span class=legend>{items}</span></figcaption>"
