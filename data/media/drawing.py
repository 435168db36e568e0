"""Draw strokes, dots and text on a white page, as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from data.media.labels.installed_fonts import own_font

if TYPE_CHECKING:
    from PIL.ImageDraw import ImageDraw

SCALE = 3  # pixels of a unit while drawing; the picture has 2, which smooths edges
SHOWN = 2
TEXT = 12  # units
NAMED = {"ink": "#1f2937", "grid": "#e5e7eb"}


class Stroke(NamedTuple):
    """Something drawn at places (x, y) in units from the upper left corner.

    colour: #rrggbb, or ink or grid.  text: written from its place on, or as anchor says.
    """

    kind: Literal["line", "dashes", "band", "dot", "ring", "text"]
    points: Sequence[tuple[float, float]]
    colour: str
    text: str = ""
    anchor: Literal["start", "middle", "end"] = "start"


def draw_strokes(strokes: Sequence[Stroke], width: int, height: int) -> NDArray[np.uint8]:
    """Return the picture (2 height, 2 width, 3) of strokes, the later ones in front."""
    from PIL import Image, ImageDraw

    picture = Image.new("RGB", (width * SCALE, height * SCALE), "white")
    pen = ImageDraw.Draw(picture, "RGBA")
    for stroke in strokes:
        _draw(pen, stroke)
    return np.asarray(picture.resize((width * SHOWN, height * SHOWN), Image.Resampling.LANCZOS))


def _draw(pen: ImageDraw, stroke: Stroke) -> None:
    colour = NAMED.get(stroke.colour, stroke.colour)
    points = [(x * SCALE, y * SCALE) for x, y in stroke.points]
    if stroke.kind == "text":
        anchor = {"start": "lm", "middle": "mm", "end": "rm"}[stroke.anchor]
        pen.text(points[0], stroke.text, fill=colour, font=own_font(TEXT * SCALE), anchor=anchor)
    elif stroke.kind in ("dot", "ring"):
        (x, y), r = points[0], 4 * SCALE
        fill = colour if stroke.kind == "dot" else None
        pen.ellipse((x - r, y - r, x + r, y + r), fill=fill, outline=colour, width=2 * SCALE)
    elif stroke.kind == "band":
        pen.polygon(points, fill=f"{colour}26")
    else:
        width = SCALE if stroke.colour == "grid" else 2 * SCALE
        for part in _dashed(points) if stroke.kind == "dashes" else [points]:
            pen.line(part, fill=colour, width=width, joint="curve")


def _dashed(points: Sequence[tuple[float, float]]) -> list[list[tuple[float, float]]]:
    """Cut a line into dashes of 5 units with gaps of 4."""
    places = np.array(points)
    lengths = np.concatenate([[0.0], np.hypot(*np.diff(places, axis=0).T).cumsum()])
    found = []
    for start in np.arange(0, lengths[-1], 9 * SCALE):
        at = np.linspace(start, min(start + 5 * SCALE, lengths[-1]), 4)
        x, y = (np.interp(at, lengths, places[:, axis]) for axis in (0, 1))
        found.append(list(zip(x.tolist(), y.tolist(), strict=True)))
    return found
