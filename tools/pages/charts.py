"""Charts as inline SVG: curves over steps and horizontal bars."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from core.escaping import in_html

WIDTH, HEIGHT, LEFT, BOTTOM = 460, 220, 56, 28  # pixels
COLOURS = ("#2563eb", "#dc6803", "#059669")
Points = Sequence[tuple[float, float]]


def curves(title: str, series: Mapping[str, Points], *, logarithmic: bool = False) -> str:
    """Draw named series of (step, value) over a common step axis, with a moving mean over the raw values.

    Non-finite values, and on a logarithmic axis non-positive ones, are left out.
    """
    kept = {name: _usable(points, logarithmic) for name, points in series.items()}
    kept = {name: points for name, points in kept.items() if points}
    if not kept:
        return ""
    steps = [x for points in kept.values() for x, _ in points]
    values = [y for points in kept.values() for _, y in points]
    low, high = _range(values, logarithmic)
    last = max(steps) or 1

    def place(x: float, y: float) -> str:
        height = (_scaled(y, logarithmic) - low) / (high - low)
        return f"{LEFT + (WIDTH - LEFT - 8) * x / last:.1f},{8 + (HEIGHT - BOTTOM - 8) * (1 - height):.1f}"

    parts = [_frame(title, last, low, high, logarithmic)]
    for colour, (name, points) in zip(COLOURS, kept.items(), strict=False):
        raw = " ".join(place(x, y) for x, y in _thinned(points))
        mean = " ".join(place(x, y) for x, y in _thinned(moving_mean(points)))
        parts.append(f'<polyline points="{raw}" fill="none" stroke="{colour}" stroke-opacity=".25"/>')
        parts.append(f'<polyline points="{mean}" fill="none" stroke="{colour}" stroke-width="1.8"/>')
        row = 22 + 16 * list(kept).index(name)
        label = f"{in_html(name)}: {points[-1][1]:.3g}"
        parts.append(
            f'<text x="{WIDTH - 12}" y="{row}" text-anchor="end" style="fill:{colour}">{label}</text>'
        )
    return _svg(WIDTH, HEIGHT, title, parts)


def bars(title: str, values: Mapping[str, float], unit: str) -> str:
    """Draw one horizontal bar per named value, which must be at least 0."""
    if not values:
        return ""
    top, row = max(values.values()) or 1, 24
    parts = []
    for number, (name, value) in enumerate(values.items()):
        y, length = number * row + 4, 280 * value / top
        parts.append(f'<text x="136" y="{y + 13}" text-anchor="end">{in_html(name)}</text>')
        parts.append(
            f'<rect x="144" y="{y}" width="{max(1, length):.1f}" height="17" rx="3" fill="{COLOURS[0]}"/>'
        )
        parts.append(f'<text x="{150 + length:.1f}" y="{y + 13}">{value:.1f} {in_html(unit)}</text>')
    return _svg(520, row * len(values) + 6, title, parts)


def moving_mean(points: Points, share: float = 0.05) -> list[tuple[float, float]]:
    """Average each value with its neighbours in a window of `share` of all points (narrower at the ends)."""
    reach = int(len(points) * share / 2)
    sums = [0.0]
    for _, value in points:
        sums.append(sums[-1] + value)
    result = []
    for i, (step, _) in enumerate(points):
        near = min(reach, i, len(points) - 1 - i)
        result.append((step, (sums[i + near + 1] - sums[i - near]) / (2 * near + 1)))
    return result


def _svg(width: float, height: float, title: str, parts: Sequence[str]) -> str:
    name = in_html(title)
    return (
        f'<svg viewBox="0 0 {width} {height}" width="{width}" role="img" aria-label="{name}">'
        f"{''.join(parts)}</svg>"
    )


def _frame(title: str, last: float, low: float, high: float, logarithmic: bool) -> str:
    """Draw axes, three horizontal lines with their values, and the title in the lower middle."""
    parts = []
    for share in (0, 0.5, 1):
        y = 8 + (HEIGHT - BOTTOM - 8) * (1 - share)
        value = low + (high - low) * share
        text = f"{10**value if logarithmic else value:.3g}"
        parts.append(f'<path d="M{LEFT} {y:.1f}H{WIDTH - 8}" stroke="#8884" fill="none"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{text}</text>')
    middle = (LEFT + WIDTH) / 2
    parts.append(f'<text x="{LEFT}" y="{HEIGHT - 8}">0</text>')
    parts.append(f'<text x="{WIDTH - 8}" y="{HEIGHT - 8}" text-anchor="end">step {last:g}</text>')
    parts.append(f'<text x="{middle}" y="{HEIGHT - 8}" text-anchor="middle">{in_html(title)}</text>')
    return "".join(parts)


def _usable(points: Points, logarithmic: bool) -> list[tuple[float, float]]:
    return [(x, y) for x, y in points if math.isfinite(y) and (y > 0 or not logarithmic)]


def _scaled(value: float, logarithmic: bool) -> float:
    return math.log10(value) if logarithmic else value


def _range(values: Sequence[float], logarithmic: bool) -> tuple[float, float]:
    scaled = [_scaled(value, logarithmic) for value in values]
    low, high = min(scaled), max(scaled)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _thinned(points: Points, most: int = 400) -> Points:
    stride = math.ceil(len(points) / most)
    return points if stride <= 1 else [*points[::stride], points[-1]]
