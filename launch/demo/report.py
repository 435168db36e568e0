"""Write report.html, one self-contained page on a demo run: pictures, curves, scores, commands.

It is written from the first stage on and grows; at any moment it is whole, and says what is still to come.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from core.config.settings import REQUIRED, setting
from core.errors import UserError, WorkError
from core.escaping import in_html
from core.files import write_text
from core.progress import duration, say
from core.reading.instead import instead
from core.records import iterate, number
from core.run.folder import METRICS, SCORES
from data.dataset.schema import MANIFEST
from launch.demo.score_table import read_scores, score_table
from launch.demo.stage_records import STAGES, StageRecord, Stages, read_stages
from tools.pages.charts import Points, bars, curves
from tools.pages.page import page, picture, section, side_by_side, video

REPORT, SHEET = "report.html", "sheet.png"
RELOAD_S = 15  # as often as a long stage has the page written


@dataclass(frozen=True, kw_only=True)
class Config:
    """The demo folder to report on."""

    job: ClassVar[str] = "report"

    source: str = setting(REQUIRED, "folder of a demo run; the report is written into it", shown="path")


def plan(config: Config) -> list[str]:
    """Say what `run` would write."""
    return [f"{_demo(config.source) / REPORT} from what is in {config.source}"]


def run(config: Config) -> None:
    """Read what the stages left in the folder and write the page."""
    folder = _demo(config.source)
    write_text(folder / REPORT, render(folder))


def keep_current(folder: Path) -> None:
    """Write the page of a demo that goes on; where that fails, say so, since the work is worth more."""
    try:
        write_text(folder / REPORT, render(folder, going_on=True))
    except (WorkError, OSError) as error:
        say(f"{folder / REPORT} could not be written: {error}")


def _demo(source: str) -> Path:
    """Return the folder; UserError if it is not that of a demo."""
    folder = Path(source)
    if not (folder / STAGES).is_file():
        expected = f"the folder of a demo run (with a {STAGES}){instead(folder)}"
        raise UserError("source", source, expected)
    return folder


def render(folder: Path, *, going_on: bool = False) -> str:
    """Return the page.

    Sections of stages that are still to come say so; those for what a run does not have (clips, classes, …)
    are left out.  going_on: whether the demo runs now, so that a browser should read the page again.
    """
    record = read_stages(folder)
    stages, scores = record["stages"], read_scores(folder)
    total = sum(stage["seconds"] for stage in stages)
    unfinished = _unfinished(record)
    real = "held-out" if scores.get("heldout_unseen", record["digits"]) else "training"
    beside = side_by_side(folder / "samples/images/images.png", folder / "scores/real_images.png")
    # title, content, the stage that makes it
    contents = [
        (f"Images: generated (left), {real} pictures (right)", beside, "sample"),
        ("Generated clips", video(folder / "samples/clips/clips.mp4"), "sample"),
        ("Clips frame by frame", picture(folder / "samples/clips/contact.png"), "sample"),
        (
            "Generated pictures above the training pictures that are most alike",
            picture(folder / "scores/closest_pairs.png"),
            "evaluate",
        ),
        ("Scores", score_table(scores, with_bars=record["digits"]), "evaluate"),
        ("The autoencoder, on held-out data", picture(folder / "autoencoder/reconstructions.png"), ENCODER),
        ("Training", _training_curves(folder), ENCODER),
        ("What was chosen for this folder, and its limits", _chosen(folder), ""),
        ("The data", _data(folder), "shard"),
        (
            f"Time: {total / 60:.1f} minutes",
            bars("seconds per stage", {stage["name"]: stage["seconds"] for stage in stages}, "s"),
            "",
        ),
        ("Every stage again", _commands(stages), ""),
        ("Where everything is", _places(folder), ""),
    ]
    sections = [
        section(title, content or (_later(stage) if stage in unfinished else ""))
        for title, content, stage in contents
    ]
    lead, failed = _state(record, unfinished)
    again = RELOAD_S if going_on and unfinished and not failed else 0
    return page("longtake demo", lead, "\n".join([failed, *filter(None, sections)]), reload_s=again)


def _unfinished(record: Stages) -> list[str]:
    """Return the stages that have not finished, in order; of an earlier version's record, none."""
    done = [stage["name"] for stage in record["stages"] if stage.get("identity", "-")]
    return [name for name in record.get("planned", []) if name not in done]


def _state(record: Stages, unfinished: Sequence[str]) -> tuple[str, str]:
    """Return where the demo is, and what ended it as HTML, or ""."""
    planned = record.get("planned", [])
    failed = next((stage for stage in record["stages"] if "error" in stage), None)
    if not unfinished:
        return "From a folder of files to generated images and video, on this machine.", ""
    seconds = sum(stage["seconds"] for stage in record["stages"])
    name, passed = unfinished[0], f"after {duration(seconds)} of work"
    where = f"stage {planned.index(name) + 1} of {len(planned)}, {name}"
    if failed is None:
        return f"This page grows: {passed} the demo is at {where}.", ""
    error = f"<p class=error><b>{in_html(failed['name'])}</b>: {in_html(failed['error'])}</p>"
    return f"The demo stopped in {where}, {passed}; the same command continues from there.", error


def _later(stage: str) -> str:
    return f"<p class=later>comes with the stage {in_html(stage)}</p>"


def _data(folder: Path) -> str:
    """Show the samples that `shard` packed: what they are, and a sheet of some."""
    from data.dataset.index import Dataset
    from data.dataset.summary import as_text, summarise

    if not (folder / "shards" / MANIFEST).is_file():
        return ""
    text = "\n".join(as_text(summarise(Dataset(folder / "shards"))))
    return (
        f"{picture(folder / SHEET)}<details><summary>in numbers</summary><pre>{in_html(text)}</pre></details>"
    )


def _chosen(folder: Path) -> str:
    """Tell what was chosen for a person's own folder; "" for the built-in digits."""
    from launch.demo.own.settling import read_settled

    settled = read_settled(folder)
    if settled is None:
        return ""
    said = "".join(f"<li>{in_html(line)}</li>" for line in settled["said"])
    return f"<ul>{said}</ul>" + "".join(f"<p>{in_html(line)}</p>" for line in settled["limits"])


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


def _commands(stages: Sequence[StageRecord]) -> str:
    lines = [f"# {stage['name']}\n" + "\n".join(stage["commands"]) for stage in stages]
    return f"<pre>{in_html(chr(10).join(lines))}</pre>"


def _places(folder: Path) -> str:
    rows = [(path, meaning) for path, meaning in PLACES.items() if (folder / path).exists()]
    cells = "".join(
        f"<tr><td><code>{in_html(folder / path)}</code><td>{in_html(meaning)}</tr>" for path, meaning in rows
    )
    return f"<table>{cells}</table>" if rows else ""


ENCODER = "train-autoencoder"
PLACES = {
    "input": "the files it began with",
    "shards": "WebDataset shards with manifest and index",
    "heldout": "shards of the held-out files",
    "choice.json": "what was chosen for your folder",
    "autoencoder": "the autoencoder's training run",
    "latents": "the latent cache",
    "run": "the diffusion transformer's training run: checkpoints, metrics.jsonl, config",
    "samples/images": "generated images: samples.npz, images.png",
    "samples/clips": "generated clips: samples.npz, clips.mp4, contact.png",
    f"scores/{SCORES}": "the scores, for programs",
    "demo.json": "stages, seconds and scores, for programs",
    "logs": "what every stage printed",
}
