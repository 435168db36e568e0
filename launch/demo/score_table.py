"""The scores of a demo: what each means, the bar it is to reach, and their table."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.escaping import in_html
from core.reading import json_files
from core.run.folder import SCORES
from tools.runs import score_names as names
from tools.runs.rulers import BESIDE_SCORES

SEEN = "The real images compared with were also training images: no held-out data was given."


@dataclass(frozen=True)
class Bar:
    """A score with its meaning and the value to reach; `passed(value, scores)` decides."""

    key: str
    meaning: str
    target: str
    passed: Callable[[float, Mapping[str, Any]], bool]
    alone: bool = False  # not measured of real samples


def _within(low: float, high: float) -> Callable[[float, Mapping[str, Any]], bool]:
    return lambda value, scores: low <= value <= high


BARS = (
    Bar(
        names.CLASS_AGREEMENT,
        "generated images that a classifier of real ones puts in their class",
        "≥ 0.95",
        _within(0.95, 1),
    ),
    Bar(
        names.CLIP_AGREEMENT,
        "the same for clips, by their middle frames",
        "≥ 0.8",
        _within(0.8, 1),
    ),
    Bar(
        names.RECALL,
        "share of real images near generated ones (variety)",
        "≥ 0.5 × real",
        lambda value, scores: value >= 0.5 * (scores.get(names.real(names.RECALL)) or 0),
    ),
    Bar(
        names.PRECISION,
        "share of generated images near real ones (fidelity)",
        "",
        _within(0, 1),
    ),
    Bar(
        names.FRECHET,
        "Fréchet distance to real images, lower is closer",
        "",
        _within(0, math.inf),
    ),
    Bar(
        names.NEAREST,
        "distance to the nearest training image (0 is a copy)",
        "",
        _within(0, math.inf),
    ),
    Bar(
        names.FRECHET_HELDOUT,
        "Fréchet distance to held-out images alone",
        "",
        _within(0, math.inf),
        alone=True,
    ),
    Bar(
        names.FRECHET_NOISE,
        "the same of noise decoded by the autoencoder",
        "",
        _within(0, math.inf),
        alone=True,
    ),
    Bar(names.COPIES, "share of near-copies of a training image", "", _within(0, 1)),
    Bar(names.PSNR, "autoencoder on these real images, in dB", "≥ 25", _within(25, math.inf), alone=True),
    Bar(
        names.MOTION,
        "frame-to-frame change of clips, generated / real",
        "0.5 to 2",
        _within(0.5, 2),
        alone=True,
    ),
    Bar(names.JERK, "unevenness of motion, generated / real", "0.5 to 1.5", _within(0.5, 1.5), alone=True),
)


REPORTED = tuple(
    name for bar in BARS for name in ([bar.key] if bar.alone else [bar.key, names.real(bar.key)])
)


def score_table(scores: Mapping[str, Any], with_bars: bool) -> str:
    """Return a table row for each score.

    `with_bars` marks the bars reached (those of the built-in digits).
    """
    rows = []
    for bar in BARS:
        value = scores.get(bar.key)
        if value is None:
            continue
        real = scores.get(names.real(bar.key))
        reached = bar.passed(value, scores)
        mark = ("✓ " if reached else "✗ ") + bar.target if bar.target and with_bars else ""
        cells = [
            f"<td><b>{in_html(bar.key)}</b><br><small>{in_html(bar.meaning)}</small></td>",
            f"<td class=n>{value:.3f}</td><td class=n>{'' if real is None else f'{real:.3f}'}</td>",
            f'<td class="{"yes" if reached else "no"}">{in_html(mark)}</td>',
        ]
        rows.append(f"<tr>{''.join(cells)}</tr>")
    heading = "<tr><th>score<th>generated<th>real<th>bar</tr>"
    note = "" if scores.get("heldout_unseen") else f"<p><small>{SEEN}</small></p>"
    return f"<table>{heading}{''.join(rows)}</table>{note}" if rows else ""


def read_scores(folder: Path) -> dict[str, bool | float | None]:
    """Return the scores of a demo by their keys, {} before there are any; WorkError if they are damaged."""
    path = folder / "scores" / SCORES
    if not path.is_file():
        return {}
    found = json_files.read(path, dict[str, Any])
    scores = {name: value for name, value in found.items() if name not in BESIDE_SCORES}
    return json_files.checked(scores, dict[str, bool | float | None], path)
