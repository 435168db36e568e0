"""The log of a run: what this process says, with time, level and rank, in a file of its own.

What `core.progress.say` and the last lines of a rank show goes to the standard library's logger `longtake`
too. The terminal sees what it always saw; the run's folder gets `logs/rank-0.log`, which later starts
continue. Other ranks do not repeat what rank 0 says, so the file of another rank appears with the first line
that is its own. Lines from before the run's folder was known are kept, and come first.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from pathlib import Path
from typing import IO

from core import terminal
from core.escaping import escaped_line

WARNING = "warning: "  # begins a line on the terminal; the log has a level for it
KEPT = 1000  # lines of a process that has no file yet
PATIENCE_S = 1.0  # for a file system that does not answer, in a process that is to end
FORM = "%(asctime)s %(levelname)s rank %(rank)d: %(message)s"


def note(text: str, level: int = logging.INFO) -> None:
    """Write a text to the log; one that begins with `warning: ` is a warning."""
    if text.startswith(WARNING):
        text, level = text.removeprefix(WARNING), max(level, logging.WARNING)
    _logger.log(level, "%s", text)


def note_last(text: str, *, failed: bool = False) -> None:
    """Write a text to the log as `note` does, without waiting long: the process is to end.

    failed: whether it tells of an error.
    """
    level = logging.ERROR if failed else logging.INFO
    thread = threading.Thread(target=note, args=(text, level), daemon=True)
    thread.start()
    thread.join(PATIENCE_S)


def keep_in(folder: Path, rank: int, head: str) -> None:
    """Let this process log to `rank-N.log` in a folder from now on.

    head: the first line of this start.  Rank 0's file is there at once, another's with its first line.
    """
    earlier = _target.records if isinstance(_target, _Waiting) else []
    first = _record(head)
    if earlier:
        first.created, first.msecs = earlier[0].created, earlier[0].msecs
    file = LogFile(folder / f"rank-{rank}.log", rank, first)
    for record in [*([first] if rank == 0 else []), *earlier]:
        file.handle(record)
    _send_to(file)


def leave() -> None:
    """Close the file; what is said from now on waits for another one."""
    _send_to(_Waiting())


def _send_to(target: logging.Handler) -> None:
    global _target
    before, _target = _target, target
    _logger.addHandler(target)
    _logger.removeHandler(before)
    before.close()


class LogFile(logging.Handler):
    """A file that is made when it is first written to, and begins with the record `first` then.

    A log matters less than the work: lines that the disk does not take are counted, and said once on the
    terminal and where they are missing.
    """

    def __init__(self, path: Path, rank: int, first: logging.LogRecord) -> None:
        super().__init__()
        self.path, self._first, self._lost, self._reason = path, first, 0, ""
        self._file: IO[bytes] | None = None
        form = logging.Formatter(FORM, defaults={"rank": rank})
        form.default_time_format, form.default_msec_format = "%Y-%m-%dT%H:%M:%S", "%s.%03dZ"
        form.converter = time.gmtime
        self.setFormatter(form)

    def emit(self, record: logging.LogRecord) -> None:
        """Append a line, past all buffers."""
        try:
            if self._file is None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._file = open(self.path, "ab", buffering=0)  # noqa: SIM115 (it stays open)
                if record is not self._first:
                    self._append(self._first)
            self._append(record)
        except OSError as error:
            self._lost, self._reason = self._lost + 1, error.strerror or str(error)
            if self._lost == 1:
                terminal.tell(f"warning: {self.path} does not take the log: {self._reason}")

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None
        super().close()

    def _append(self, record: logging.LogRecord) -> None:
        assert self._file is not None
        lines = "line is" if self._lost == 1 else "lines are"
        missing = f"({self._lost} {lines} missing here: {self._reason})\n" if self._lost else ""
        line = escaped_line(self.format(record))  # texts may hold what others wrote
        self._file.write(f"{missing}{line}\n".encode("utf-8", "backslashreplace"))
        self._lost = 0


class _Waiting(logging.Handler):
    """Keeps the last KEPT lines until there is a file."""

    def __init__(self) -> None:
        super().__init__()
        self._records: deque[logging.LogRecord] = deque(maxlen=KEPT)
        self._lost = 0

    @property
    def records(self) -> list[logging.LogRecord]:
        """The lines, after one that tells of those that were not kept."""
        lost = f"{self._lost} lines before this are not kept, since more than {KEPT} came"
        return [*([_record(lost, logging.WARNING)] if self._lost else []), *self._records]

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a line."""
        self._lost += len(self._records) == KEPT
        self._records.append(record)


def _record(text: str, level: int = logging.INFO) -> logging.LogRecord:
    name = {"name": "longtake", "msg": text, "levelno": level, "levelname": logging.getLevelName(level)}
    return logging.makeLogRecord({**name, "created": time.time()})


_target: logging.Handler = _Waiting()
_logger = logging.getLogger("longtake")
_logger.setLevel(logging.INFO)
_logger.propagate = False  # handlers that libraries give the root logger would print all of it again
_logger.addHandler(_target)
