"""Report what this machine lacks for which job, with the command that fixes it; or what went wrong in a run.

`longtake doctor` looks at this machine and the folder it is in; exit status 1 if training cannot run here.
`longtake doctor RUN` reads the record of a run. `!` marks what is missing, `-` what is worth knowing.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from core import terminal
from launch.doctor import machine, runs
from launch.doctor.finding import lines_of


def main(words: Sequence[str]) -> int:
    """Run `longtake doctor [RUN]`."""
    if len(words) > 1 or any(word.startswith("-") or "=" in word for word in words):
        terminal.deliver("usage: longtake doctor [RUN]\n\n" + str(sys.modules[__name__].__doc__))
        return 0 if {"--help", "-h"} & set(words) else 2
    findings = list(runs.look(Path(words[0])) if words else machine.look(Path.cwd()))
    terminal.deliver("\n".join(lines_of(findings)))
    return int(any(finding.state == "missing" for finding in findings))
