"""Write one self-contained HTML page about outputs of any jobs, side by side where there are several.

Curves of runs by step, sample and hour, with restarts, rank changes, incidents and checkpoints marked; loss
by noise level; samples and scores; settings and what differs between runs; datasets with a contact sheet; the
command that repeats each. The page loads nothing and runs no script. What is missing or damaged is named on
it, and the rest is shown. `follow=true` writes it again while a run goes on.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from core.errors import UserError
from core.files import read_head, write_text
from core.progress import counted, say
from tools.pages.page import MADE_BY
from tools.report import kinds
from tools.report.config import Config
from tools.report.html import render
from tools.report.output import Output

REPORT = "report.html"
LONGEST_HEAD = 1 << 13  # bytes in which a page says who made it


def plan(config: Config) -> list[str]:
    """Say what `run` would write."""
    folders = _folders(config.source)
    return [f"{page_of(config.source, config.output)} about {', '.join(map(str, folders))}"]


def run(config: Config) -> None:
    """Write the page; with `follow` again and again, until no run goes on."""
    path = page_of(config.source, config.output)
    require_replaceable(path)
    while True:
        begun = time.monotonic()
        reload_s = round(config.follow_every) if config.follow else 0
        goes_on = write_page(path, config.source, sheet=config.sheet, reload_s=reload_s)
        took = time.monotonic() - begun
        if not config.follow:
            say(f"{path}: {path.stat().st_size / 1e6:.1f} MB, in {took:.1f} s")
            return
        if not goes_on:
            say(f"{path}: no run is in progress any more; this is the last page")
            return
        say(f"{path}: written in {took:.1f} s, again in {max(config.follow_every, 10 * took):.0f} s")
        time.sleep(max(config.follow_every, 10 * took))


def write_page(path: Path, source: tuple[str, ...], *, sheet: bool, reload_s: int = 0) -> bool:
    """Read the folders and write the page; return whether one of them goes on.  reload_s: as of `render`."""
    begun = time.monotonic()
    folders = _folders(source)
    names = _names(folders)
    outputs = [
        kinds.read(folder, name, sheet=sheet, alone=len(folders) == 1)
        for folder, name in zip(folders, names, strict=True)
    ]
    took = time.monotonic() - begun
    write_text(path, render(outputs, time.time(), took, reload_s=reload_s))
    _warn_of_troubles(outputs)
    return any(output.running for output in outputs)


def page_of(source: tuple[str, ...], output: str) -> Path:
    """Return where the page goes."""
    if output:
        return Path(output)
    return Path(source[0]) / REPORT if len(source) == 1 else Path(REPORT)


def _folders(source: tuple[str, ...]) -> list[Path]:
    folders = [folder for each in source for folder in kinds.find(each)]
    unique = list({folder.resolve(): folder for folder in folders}.values())
    if len(unique) > kinds.MOST_OUTPUTS:
        raise UserError("source", f"{len(unique)} outputs", f"at most {kinds.MOST_OUTPUTS} on one page")
    return unique


def _names(folders: list[Path]) -> list[str]:
    """Return the last parts of the paths, as many as tell them apart."""
    parts = [folder.resolve().parts for folder in folders]
    for count in range(1, max(map(len, parts)) + 1):
        names = ["/".join(each[-count:]) for each in parts]
        if len(set(names)) == len(names):
            return names
    return [str(folder) for folder in folders]


def require_replaceable(path: Path) -> None:
    """Raise UserError where the page cannot be written, or would replace a file that is none of its kind."""
    if path.is_dir():
        raise UserError("output", path, "a file, and this is a folder")
    if path.exists() and MADE_BY.encode() not in read_head(path, LONGEST_HEAD):
        raise UserError("output", path, "another name: a file that longtake did not write is there")
    if not os.access(path.parent, os.W_OK) and path.parent.exists():
        raise UserError("output", path, "a place that can be written, as output=report.html is here")


def _warn_of_troubles(outputs: list[Output]) -> None:
    for output in outputs:
        if output.troubles:
            many = counted(len(output.troubles), "piece")
            first = output.troubles[0]
            say(f"warning: {output.folder}: {many} missing or damaged, named on the page: {first}")
