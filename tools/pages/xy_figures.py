"""Figures of points, lines and bands over two axes, laid out once and drawn as SVG or as a picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

from core.escaping import in_html
from data.media.drawing import Stroke

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 620, 380, 72, 150, 30, 46  # pixels
COLOURS = ("#2563eb", "#dc6803", "#059669", "#9333ea", "#dc2626", "#0891b2", "#ca8a04", "#64748b")
Points = Sequence[tuple[float, float]]


class Series(NamedTuple):
    """Points drawn alike.  colour: of COLOURS, by number.  label: in the legend; '' is not there.

    band: points are a closed outline, which is filled.  open: dots that were not fitted.
    """

    points: Points
    colour: int
    label: str = ""
    shape: Literal["dots", "open", "line", "dashes", "band"] = "dots"


class Figure(NamedTuple):
    """A figure with its axes; values that an axis cannot show are left out."""

    title: str
    x: str
    y: str
    series: Sequence[Series]
    log_x: bool = True
    log_y: bool = False


class _Axis(NamedTuple):
    """A scale from values to pixels."""

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool

    def place(self, value: float) -> float:
        scaled = math.log10(value) if self.logarithmic else value
        return self.start + (self.end - self.start) * (scaled - self.low) / (self.high - self.low)


def layout(figure: Figure) -> list[Stroke]:
    """Return everything that is drawn, from back to front."""
    shown = [
        series._replace(points=[p for p in series.points if _fits(p, figure)]) for series in figure.series
    ]
    shown = [series for series in shown if series.points]
    if not shown:
        return []
    x = _axis([p[0] for s in shown for p in s.points], LEFT, WIDTH - RIGHT, figure.log_x)
    y = _axis([p[1] for s in shown for p in s.points], HEIGHT - BOTTOM, TOP, figure.log_y)
    strokes = _frame(figure, x, y)
    order = {"band": 0, "line": 1, "dashes": 1, "open": 2, "dots": 2}
    for series in sorted(shown, key=lambda each: order[each.shape]):
        strokes += _strokes(series, x, y)
    labelled = [series for series in shown if series.label]
    for row, series in enumerate(labelled):
        colour = COLOURS[series.colour % len(COLOURS)]
        strokes.append(Stroke("text", [(WIDTH - RIGHT + 12, TOP + 8 + 18 * row)], colour, text=series.label))
    return strokes


def svg(figure: Figure) -> str:
    """Return the figure as inline SVG; '' where nothing can be shown."""
    parts = [_svg_of(stroke) for stroke in layout(figure)]
    if not parts:
        return ""
    name = in_html(figure.title)
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" role="img" aria-label="{name}">'
        f"{''.join(parts)}</svg>"
    )


def _fits(point: tuple[float, float], figure: Figure) -> bool:
    x, y = point
    if not (math.isfinite(x) and math.isfinite(y)):
        return False
    return (x > 0 or not figure.log_x) and (y > 0 or not figure.log_y)


def _axis(values: Sequence[float], start: float, end: float, logarithmic: bool) -> _Axis:
    scaled = [math.log10(value) if logarithmic else value for value in values]
    low, high = min(scaled), max(scaled)
    room = 0.04 * (high - low) or 0.5
    return _Axis(low - room, high + room, start, end, logarithmic)


def ticks(axis: _Axis, most: int = 6) -> list[float]:
    """Return round values along an axis: 1, 2 or 5 times a power of 10."""
    if axis.logarithmic:
        decades = range(math.floor(axis.low), math.ceil(axis.high) + 1)
        for factors in ((1, 2, 5), (1, 3), (1,)):
            found = [factor * 10.0**decade for decade in decades for factor in factors]
            found = [value for value in found if axis.low <= math.log10(value) <= axis.high]
            if len(found) <= most:
                break
        if len(found) > 1:
            return found[:: math.ceil(len(found) / most)]
        low, high = 10**axis.low, 10**axis.high
        return _linear_ticks(low, high, most)
    return _linear_ticks(axis.low, axis.high, most)


def _linear_ticks(low: float, high: float, most: int) -> list[float]:
    size = 10.0 ** math.floor(math.log10((high - low) / most))
    step = next(size * f for f in (1, 2, 5, 10, 20) if (high - low) / (size * f) <= most)
    first = math.ceil(low / step)
    return [step * k for k in range(first, math.floor(high / step) + 1)]


def _frame(figure: Figure, x: _Axis, y: _Axis) -> list[Stroke]:
    strokes = []
    for value in ticks(y):
        height = y.place(value)
        strokes.append(Stroke("line", [(x.start, height), (x.end, height)], "grid"))
        strokes.append(Stroke("text", [(x.start - 6, height)], "ink", text=f"{value:.4g}", anchor="end"))
    for value in ticks(x):
        place = x.place(value)
        strokes.append(Stroke("line", [(place, y.start), (place, y.end)], "grid"))
        strokes.append(Stroke("text", [(place, y.start + 14)], "ink", text=f"{value:.3g}", anchor="middle"))
    middle = (x.start + x.end) / 2
    strokes.append(Stroke("text", [(middle, HEIGHT - 10)], "ink", text=figure.x, anchor="middle"))
    strokes.append(Stroke("text", [(LEFT, TOP - 16)], "ink", text=f"{figure.y}: {figure.title}"))
    return strokes


def _strokes(series: Series, x: _Axis, y: _Axis) -> list[Stroke]:
    colour = COLOURS[series.colour % len(COLOURS)]
    points = [(x.place(a), y.place(b)) for a, b in series.points]
    if series.shape == "dots" or series.shape == "open":
        return [Stroke("dot" if series.shape == "dots" else "ring", [point], colour) for point in points]
    return [Stroke(series.shape, points, colour)]


def _svg_of(stroke: Stroke) -> str:
    colour = {"ink": "currentColor", "grid": "#8884"}.get(stroke.colour, stroke.colour)
    (x, y), *_ = stroke.points
    if stroke.kind == "text":
        return (
            f'<text x="{x:.1f}" y="{y + 4:.1f}" text-anchor="{stroke.anchor}" style="fill:{colour}">'
            f"{in_html(stroke.text)}</text>"
        )
    if stroke.kind in ("dot", "ring"):
        fill = colour if stroke.kind == "dot" else "none"
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{fill}" stroke="{colour}" stroke-width="1.6"/>'
    places = " ".join(f"{a:.1f},{b:.1f}" for a, b in stroke.points)
    if stroke.kind == "band":
        return f'<polygon points="{places}" fill="{colour}" fill-opacity=".15"/>'
    dashes = ' stroke-dasharray="5 4"' if stroke.kind == "dashes" else ""
    width = 1 if stroke.colour == "grid" else 1.8
    return f'<polyline points="{places}" fill="none" stroke="{colour}" stroke-width="{width}"{dashes}/>'
