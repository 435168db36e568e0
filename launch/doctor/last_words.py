"""Report how a run's last start ended, by the last line of its log, and what to do then."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from core.files import open_regular, published
from core.run.folder import LOGS
from launch.doctor.finding import Finding

TAIL = 1 << 16  # bytes of a log that are read, from its end
ENDED = re.compile(r" ERROR rank \d+: (.*)$| INFO rank \d+: (.*: ended early on .*)$")
START = re.compile(r" rank \d+: start \d+ \(")
AGAIN = "the same command continues the run"
REMEDIES = (  # a text in the line, the name of the failure, and what to do
    ("nothing has moved|has written nothing", "hang", f"logs/hang-rank-*.txt say where; then {AGAIN}"),
    ("ended early on", "preempted", AGAIN),
    ("out of memory", "memory", "engine.micro_batch=auto, activation_checkpointing=full, or more ranks"),
    ("No space left|Disk quota|File too large", "disk full", f"free some space; then {AGAIN}"),
    ("not finite|non-finite", "not finite", "a smaller optimizer.lr, or a longer warm-up"),
)


def last_words(run: Path) -> Iterator[Finding]:
    """Yield what the logs of the ranks say ended the last start; nothing where that is not known."""
    for path in published(run / LOGS, "rank-*.log"):
        line = _last_line(path)
        if line:
            name, remedy = _known(line)
            yield Finding(name, f"{path.stem}: {line}", "note", remedy or AGAIN)
            return


def _last_line(path: Path) -> str:
    """Return the line that says how the last start failed or was ended early; "" where there is none."""
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        text = os.pread(file.fileno(), TAIL, max(0, size - TAIL)).decode("utf-8", "replace")
    for line in reversed(text.splitlines()):
        if START.search(line):
            return ""
        if found := ENDED.search(line):
            return found[1] or found[2]
    return ""


def _known(line: str) -> tuple[str, str]:
    for pattern, name, remedy in REMEDIES:
        if re.search(pattern, line):
            return name, remedy
    return "error", ""
