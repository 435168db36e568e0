"""Show what a submitted job has written: its last start, of one rank or of all."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from core import terminal
from core.config import loading
from core.config.fields import describe
from core.config.settings import REQUIRED, setting
from core.errors import UserError
from core.files import open_regular, published
from launch import arguments
from launch.cluster import records
from launch.cluster.listing import state_of
from launch.cluster.records import ENDED, Submission
from launch.help import fields_text

PERIOD_S = 0.5
_CONTROLS = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")  # but tab, line feed and carriage return


@dataclass(frozen=True, kw_only=True)
class Config:
    """What to show."""

    source: str = setting(REQUIRED, "output of the job", shown="path")
    rank: int | None = setting(None, "show this rank alone; null is all of them", low=0)
    task: int | None = setting(None, "show this task of an array alone; null is all of them", low=0)
    follow: bool = setting(False, "wait for further output until the job has ended")


def main(words: Sequence[str]) -> int:
    """Run `longtake logs RUN [rank=R] [task=K] [follow=true]`."""
    typed = arguments.parse(["logs", *words])
    if typed.help:
        terminal.deliver(
            "\n".join(
                [
                    "usage: longtake logs RUN [rank=R] [task=K] [follow=true]",
                    "",
                    str(__doc__),
                    "",
                    *fields_text(describe(Config)),
                ]
            )
        )
        return 0
    config = loading.load(Config, typed.files, typed.overrides)
    submission = records.latest(Path(config.source))
    shown: dict[Path, int] = {}
    while True:
        has_ended = state_of(submission)[0] in (*ENDED, "lost") if config.follow else True
        for path in _files(submission, config.rank, config.task):
            with open_regular(path) as file:
                file.seek(shown.get(path, 0))
                text = file.read()
            if text and len(shown | {path: 0}) > 1 and path not in shown:
                terminal.deliver(f"==> {path}")
            shown[path] = shown.get(path, 0) + len(text)
            # ours are spelled out already; this is what libraries have printed
            sys.stdout.buffer.write(_CONTROLS.sub(lambda found: b"\\u%04x" % found[0][0], text))
            sys.stdout.buffer.flush()
        if has_ended:
            return 0
        time.sleep(PERIOD_S)


def _files(submission: Submission, rank: int | None, task: int | None) -> list[Path]:
    """List the files of the last start of each task."""
    starts = [record for record in submission.latest_records() if task in (None, record.get("task", 0))]
    if not starts:
        logs = published(submission.folder / "submitit", "*.out")
        return logs if rank is None and task is None else []
    found: list[Path] = []
    for start in starts:
        folder = submission.folder / "attempts" / start["name"]
        own = published(folder, "rank-*.txt")
        found += [folder / "output.txt"] if rank is None else []
        found += sorted(own, key=lambda path: int(path.stem.partition("-")[2]))
    of_rank = [path for path in found if rank is None or path.stem == f"rank-{rank}"]
    if found and not of_rank:
        raise UserError("rank", rank, f"one of {len(found)} ranks")
    return of_rank
