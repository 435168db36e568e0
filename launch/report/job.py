"""Write one self-contained HTML page about outputs of any jobs, side by side where there are several.

Curves of runs by step, sample and hour, with restarts, rank changes, incidents and checkpoints marked; loss
by noise level; samples and scores; settings and what differs between runs; datasets with a contact sheet; the
command that repeats each. The page loads nothing and runs no script. What is missing or damaged is named on
it, and the rest is shown. `follow=true` writes it again while a run goes on.
The folder of `longtake demo` gets the page that the demo writes.
"""

from __future__ import annotations

from pathlib import Path

from core.files import write_text
from launch.demo.report import render
from launch.demo.stage_records import STAGES
from tools.report import job
from tools.report.config import Config


def plan(config: Config) -> list[str]:
    """Say what `run` would write."""
    if (demo := _demo(config.source)) is not None:
        return [f"{job.page_of(config.source, config.output)} about the demo in {demo}"]
    return job.plan(config)


def run(config: Config) -> None:
    """Write the page."""
    if (demo := _demo(config.source)) is None:
        job.run(config)
        return
    path = job.page_of(config.source, config.output)
    job.require_replaceable(path)
    write_text(path, render(demo))


def _demo(source: tuple[str, ...]) -> Path | None:
    folder = Path(source[0])
    return folder if len(source) == 1 and (folder / STAGES).is_file() else None
