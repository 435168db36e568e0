"""Start a job as a child process, and read what it prints."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence


def start_child(
    words: Sequence[str], variables: Mapping[str, str], *, own_group: bool = False
) -> subprocess.Popen[str]:
    """Start a command whose two output streams are read as one, line by line, and that reads nothing.

    variables: its whole environment.  own_group: out of reach of Ctrl-C, for a child that is sent signals.
    """
    return subprocess.Popen(
        words,
        env=variables,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        errors="replace",
        process_group=0 if own_group else None,
    )
