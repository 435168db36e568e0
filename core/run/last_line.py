"""The line with which a process says how it ended: printed once for all ranks, and last."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path

from core import environment, terminal
from core.escaping import escaped_line

SAID_FILE = "LONGTAKE_TOLD"  # the file by which a launcher's ranks know that one has said why the run ends

_REPEAT = """
import os, select, sys
try:
    ended = select.poll()
    ended.register(os.pidfd_open(int(sys.argv[1])), select.POLLIN)
    ended.poll()
except ProcessLookupError:
    pass
print(sys.argv[2], file=sys.stderr)
"""


def tell(line: str, *, failed: bool = False) -> None:
    """Print a last line on standard error, and log it; of the ranks of our launcher only the first prints.

    A rank prints while it lives, so before others can notice its death and complain of that. Where no one
    listens any more (a terminal that has gone) the line is lost, and the exit status is not.
    """
    from core import log  # imported here, since showing help or a plan needs no log

    _print(line)
    log.note_last(line, failed=failed)


def _print(line: str) -> None:
    if file := os.environ.get(SAID_FILE):
        try:
            Path(file).touch(exist_ok=False)
        except FileExistsError:
            return
        except OSError:
            pass  # the launcher and its folder have gone: better printed twice than never
    terminal.tell(line)


def repeat_after_torchrun(line: str) -> None:
    """Print the line again when torchrun has ended; on a signal it prints a traceback of its own, at the end.

    A small process waits for that, and this one, a rank, need not. Only Linux tells when a process that is no
    child has ended. Nothing is repeated where torchrun may start the ranks again and the line is soon untrue.
    """
    if not environment.is_last_torchrun_attempt() or not hasattr(os, "pidfd_open"):
        return
    with contextlib.suppress(OSError):
        subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _REPEAT, str(os.getppid()), escaped_line(line)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,  # torchrun signals the groups of its ranks
        )
