"""Write report.html, one self-contained page on a demo run: pictures, curves, scores, commands."""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NotRequired, TypedDict

from core.config.settings import REQUIRED, setting
from core.errors import UserError
from core.escaping import in_html
from core.files import instead, read_bytes, write_text
from core.reading import json_files
from core.records import iterate, number
from core.run.folder import METRICS, SCORES
from tools.pages.charts import Points, bars, curves
from tools.pages.page import page

SEEN = "The real images compared with were also training images: no held-out data was given."
REPORT, STAGES = "report.html", "stages.json"


class StageRecord(TypedDict):
    """A stage that ran.  inputs, outcome: hashes of files; earlier versions noted none."""

    name: str
    commands: list[str]
    identity: NotRequired[str]
    seconds: float
    inputs: NotRequired[list[str]]
    outcome: NotRequired[list[str]]


class Stages(TypedDict):
    """The content of `stages.json`. digits: whether the input is the built-in one."""

    digits: bool
    stages: list[StageRecord]


@dataclass(frozen=True, kw_only=True)
class Config:
    """The demo folder to report on."""

    job: ClassVar[str] = "report"

    source: str = setting(REQUIRED, "folder of a demo run; the report is written into it", shown="path")


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
    Bar("psnr_db", "autoencoder on these real images, in dB", "≥ 25", _within(25, math.inf)),
    Bar("motion_ratio", "frame-to-frame change of clips, generated / real", "0.5 to 2", _within(0.5, 2)),
    Bar("jerk_ratio", "unevenness of motion, generated / real", "0.5 to 1.5", _within(0.5, 1.5)),
)


def plan(config: Config) -> list[str]:
    """Say what `run` would write."""
    return [f"{_demo(config) / REPORT} from what is in {config.source}"]


def run(config: Config) -> None:
    """Read what the stages left in the folder and write the page."""
    folder = _demo(config)
    write_text(folder / REPORT, render(folder))


def _demo(config: Config) -> Path:
    """Return the folder; UserError if it is not that of a demo."""
    folder = Path(config.source)
    if not (folder / STAGES).is_file():
        expected = f"the folder of a demo run (with a {STAGES}){instead(folder)}"
        raise UserError("source", config.source, expected)
    return folder


def render(folder: Path) -> str:
    """Return the page; sections for what a run does not have (clips, classes, …) are left out."""
    record = read_stages(folder)
    stages, scores = record["stages"], read_scores(folder)
    total = sum(stage["seconds"] for stage in stages)
    sections = [
        _section(
            "Images: generated (left), held-out real ones (right)",
            _side_by_side(folder / "samples/images/images.png", folder / "scores/real_images.png"),
        ),
        _section("Generated clips", _video(folder / "samples/clips/clips.mp4")),
        _section("Clips frame by frame", _picture(folder / "samples/clips/contact.png")),
        _section("Scores", _score_table(scores, with_bars=record["digits"])),
        _section("Training", _training_curves(folder)),
        _section(
            f"Time: {total / 60:.1f} minutes",
            bars("seconds per stage", {stage["name"]: stage["seconds"] for stage in stages}, "s"),
        ),
        _section("Every stage again", _commands(stages)),
        _section("Where everything is", _places(folder)),
    ]
    body = "\n".join(section for section in sections if section)
    lead = "From a folder of files to generated images and video, on this machine."
    return page("longtake demo", lead, body)


def _section(title: str, content: str) -> str:
    return f"<section><h2>{in_html(title)}</h2>{content}</section>" if content else ""


def _picture(path: Path) -> str:
    data = _inline(path)
    return f'<img alt="{in_html(path.name)}" src="data:image/png;base64,{data}">' if data else ""


def _side_by_side(*paths: Path) -> str:
    pictures = "".join(f"<div>{picture}</div>" for path in paths if (picture := _picture(path)))
    return f"<div class=pair>{pictures}</div>" if pictures else ""


def _video(path: Path) -> str:
    data = _inline(path)
    source = f'src="data:video/mp4;base64,{data}"'
    return f"<video {source} autoplay loop muted playsinline controls></video>" if data else ""


def _inline(path: Path) -> str:
    return base64.b64encode(read_bytes(path)).decode("ascii") if path.is_file() else ""


def _score_table(scores: Mapping[str, Any], with_bars: bool) -> str:
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


def _training_curves(folder: Path) -> str:
    parts = []
    for name, title in (
        ("autoencoder", "loss of the autoencoder"),
        ("run", "loss of the diffusion transformer"),
    ):
        points = read_curve(folder / name / METRICS, "loss")
        parts.append(curves(title, {"loss": points}, logarithmic=True))
    return "".join(parts)


def read_curve(path: Path, key: str) -> Points:
    """Return (step, value) from a metrics.jsonl; rows without the key are passed over."""
    points: dict[int, float] = {}
    for row in iterate(path):
        value = number(row, key)
        if value is not None and "step" in row:
            points[row["step"]] = value  # an early version may have a step twice
    return sorted(points.items())


def _commands(stages: Sequence[Mapping[str, Any]]) -> str:
    lines = [f"# {stage['name']}\n" + "\n".join(stage["commands"]) for stage in stages]
    return f"<pre>{in_html(chr(10).join(lines))}</pre>"


def _places(folder: Path) -> str:
    rows = [(path, meaning) for path, meaning in PLACES.items() if (folder / path).exists()]
    cells = "".join(
        f"<tr><td><code>{in_html(folder / path)}</code><td>{in_html(meaning)}</tr>" for path, meaning in rows
    )
    return f"<table>{cells}</table>"


def read_stages(folder: Path) -> Stages:
    """Read what a demo recorded of its stages; WorkError if that is damaged."""
    return json_files.read(folder / STAGES, Stages)


def read_scores(folder: Path) -> dict[str, bool | float | None]:
    """Return the scores of a demo by their keys, {} before there are any; WorkError if they are damaged."""
    path = folder / "scores" / SCORES
    if not path.is_file():
        return {}
    found = json_files.read(path, dict[str, Any])
    found.pop("of", None)
    return json_files.checked(found, dict[str, bool | float | None], path)


PLACES = {
    "input": "the files it began with",
    "shards": "WebDataset shards with manifest and index",
    "heldout": "shards of the held-out files",
    "autoencoder": "the autoencoder's training run",
    "latents": "the latent cache",
    "run": "the diffusion transformer's training run: checkpoints, metrics.jsonl, config",
    "samples/images": "generated images: samples.npz, images.png",
    "samples/clips": "generated clips: samples.npz, clips.mp4, contact.png",
    f"scores/{SCORES}": "the scores, for programs",
    "demo.json": "stages, seconds and scores, for programs",
    "logs": "what every stage printed",
}
