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
from tools.runs.rulers import BESIDE_SCORES

SEEN = "The real images compared with were also training images: no held-out data was given."


@dataclass(frozen=True)
class Bar:
    """A score with its meaning and the value to reach; `passed(value, scores)` decides."""

    key: str
    meaning: str
    target: str
    passed: Callable[[float, Mapping[str, Any]], bool]
    beside: str = ""  # key of the same measure on real samples


def _within(low: float, high: float) -> Callable[[float, Mapping[str, Any]], bool]:
    return lambda value, scores: low <= value <= high


BARS = (
    Bar(
        "class_agreement",
        "generated images that a classifier of real ones puts in their class",
        "≥ 0.95",
        _within(0.95, 1),
        "reference_accuracy",
    ),
    Bar(
        "clip_agreement",
        "the same for clips, by their middle frames",
        "≥ 0.8",
        _within(0.8, 1),
        "clip_reference_accuracy",
    ),
    Bar(
        "recall",
        "share of real images near generated ones (variety)",
        "≥ 0.5 × real",
        lambda value, scores: value >= 0.5 * (scores.get("recall_real") or 0),
        "recall_real",
    ),
    Bar(
        "precision",
        "share of generated images near real ones (fidelity)",
        "",
        _within(0, 1),
        "precision_real",
    ),
    Bar(
        "frechet",
        "Fréchet distance to real images, lower is closer",
        "",
        _within(0, math.inf),
        "frechet_real",
    ),
    Bar(
        "nearest",
        "distance to the nearest training image (0 is a copy)",
        "",
        _within(0, math.inf),
        "nearest_real",
    ),
    Bar("frechet_heldout", "Fréchet distance to held-out images alone", "", _within(0, math.inf)),
    Bar("frechet_noise", "the same of noise decoded by the autoencoder", "", _within(0, math.inf)),
    Bar("copies", "share of near-copies of a training image", "", _within(0, 1), "copies_real"),
    Bar("psnr_db", "autoencoder on these real images, in dB", "≥ 25", _within(25, math.inf)),
    Bar("motion_ratio", "frame-to-frame change of clips, generated / real", "0.5 to 2", _within(0.5, 2)),
    Bar("jerk_ratio", "unevenness of motion, generated / real", "0.5 to 1.5", _within(0.5, 1.5)),
)


REPORTED = tuple(dict.fromkeys(name for bar in BARS for name in (bar.key, bar.beside) if name))


def score_table(scores: Mapping[str, Any], with_bars: bool) -> str:
    """Return a table row for each score.

    `with_bars` marks the bars reached (those of the built-in digits).
    """
    rows = []
    for bar in BARS:
        value = scores.get(bar.key)
        if value is None:
            continue
        real = scores.get(bar.beside)
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
