"""Charts: where points land, what is left out, and that the result is well-formed."""

from __future__ import annotations

import math
import re
from xml.etree import ElementTree

import numpy as np
import pytest

from tools.pages import charts


def lines(svg: str) -> list[list[tuple[float, float]]]:
    root = ElementTree.fromstring(svg)
    return [
        [(float(x), float(y)) for x, y in (point.split(",") for point in line.attrib["points"].split())]
        for line in root.iter("polyline")
    ]


def test_a_straight_line_is_drawn_from_corner_to_corner() -> None:
    raw, mean = lines(charts.curves("loss", {"loss": [(step, 10 - step) for step in range(11)]}))
    assert raw[0] == (charts.LEFT, 8)
    assert raw[-1] == (charts.WIDTH - 8, charts.HEIGHT - charts.BOTTOM)
    assert len(mean) == 11


def test_values_that_cannot_be_drawn_are_left_out() -> None:
    points = [(0, 1.0), (1, math.nan), (2, math.inf), (3, 0.0), (4, 0.1)]
    raw, _ = lines(charts.curves("loss", {"loss": points}, logarithmic=True))
    assert len(raw) == 2
    assert charts.curves("nothing", {"loss": [(0, math.nan)]}) == ""


def test_many_points_are_thinned_but_end_where_they_end() -> None:
    raw, _ = lines(charts.curves("loss", {"loss": [(step, 1 + step) for step in range(5001)]}))
    assert len(raw) <= 402
    assert raw[-1] == (charts.WIDTH - 8, 8)


def test_moving_mean_keeps_constants_and_straight_lines() -> None:
    line = [(float(step), 3.0 * step) for step in range(100)]
    assert np.allclose(charts.moving_mean(line), line)
    jump = [(float(step), 100.0 * (step == 50)) for step in range(100)]
    assert charts.moving_mean(jump)[50][1] == pytest.approx(100 / 5)


def test_bars_are_as_long_as_their_values_and_names_are_escaped() -> None:
    svg = charts.bars("time", {"a<b": 2.0, "c": 4.0}, "s")
    rects = [float(length) for length in re.findall(r'<rect [^>]*width="([\d.]+)"', svg)]
    assert rects == [140, 280]
    assert ElementTree.fromstring(svg).findtext(".//text") == "a<b"
