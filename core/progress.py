"""Progress for a person: count, rate and time left; one line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from types import TracebackType

from core import environment, terminal
from core.escaping import escaped_line

TERMINAL_PERIOD_S = 0.1
PLAIN_PERIOD_S = 5.0


def say(text: str, *, of_any_rank: bool = False) -> None:
    """Print a plain line on standard error, and log it; only rank 0 speaks, unless it is of one alone."""
    if of_any_rank or _speaks():
        from core import log  # here, since to show help or a plan takes no log

        log.note(text)
        terminal.tell(escaped_line(text), clear=terminal.is_terminal())


class Progress:
    """Counts `total` units of work within a `with` block.

    done: units that were there before (a continued job); the rate leaves them out.
    A terminal sees one line that changes; elsewhere a line appears at most every 5 s, and a last one.
    """

    def __init__(
        self,
        total: int,
        what: str,
        *,
        unit: str = "samples",
        done: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.total, self.what, self.unit = total, what, unit
        self.count = self._first = done
        self._note = ""
        self._clock = clock
        self._start = self._shown = clock()
        self._on_terminal = terminal.is_terminal()
        self._speaks = _speaks()

    def __enter__(self) -> Progress:
        return self

    def advance(self, n: int = 1, note: str = "") -> None:
        """Count n more units; `note` (a loss, a file name) replaces the one shown last."""
        self.count += n
        self._note = note or self._note
        period = TERMINAL_PERIOD_S if self._on_terminal else PLAIN_PERIOD_S
        if self._speaks and self._clock() - self._shown >= period:
            self._shown = self._clock()
            self._show(self.line, end="" if self._on_terminal else "\n")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._speaks:
            self._show(self.line if kind else self.last_line, end="\n")

    def line(self) -> str:
        """Format as `encode: 120/1000 samples (12 %), 40.1/s, 22 s left, loss 0.1`."""
        rate = self._rate()
        parts = [f"{self.what}: {self.count}/{self.total} {self.unit} ({self._percent()} %)", f"{rate:.3g}/s"]
        if rate > 0:
            parts.append(f"{duration((self.total - self.count) / rate)} left")
        return ", ".join([*parts, *filter(None, [self._note])])

    def last_line(self) -> str:
        """Format as `encode: 1000 samples in 25 s, 40.1/s, loss 0.1`; continued, also `1000 in all`."""
        taken = duration(self._clock() - self._start)
        done = counted(self.count - self._first, self.unit.removesuffix("s"))
        total = f"{self.count} in all" if self._first else ""
        parts = [f"{self.what}: {done} in {taken}", f"{self._rate():.3g}/s", total, self._note]
        return ", ".join(filter(None, parts))

    def _percent(self) -> int:
        return 100 * self.count // self.total if self.total else 100

    def _rate(self) -> float:
        """Return units a second since the start."""
        passed = self._clock() - self._start
        return (self.count - self._first) / passed if passed > 0 else 0.0

    def _show(self, make: Callable[[], str], end: str) -> None:
        """Show a line; one that cannot be made or shown is left out, whatever is wrong with it."""
        try:
            line = escaped_line(make())
            if self._on_terminal:
                line = line[: shutil.get_terminal_size().columns - 1]
        except Exception as error:
            terminal.lost(self.what, f"the progress of {self.what} could not be told: {error}")
        else:
            terminal.tell(line, end=end, clear=self._on_terminal)


def counted(n: int, thing: str, things: str = "") -> str:
    """Format as `1 shard`, `3 shards`. things: a plural that is not the singular with an s."""
    return f"{n} {thing}" if n == 1 else f"{n} {things or thing + 's'}"


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the rows of a table as lines whose columns are aligned."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]


def duration(seconds: float) -> str:
    """Format seconds as `3.2 s`, `45 s`, `12 min 5 s`, `3 h 7 min`."""
    if seconds < 59.5:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def size(count: float, digits: int = 3) -> str:
    """Write bytes for people, `3.2 GiB`; numbers below 1,024 have `digits` significant digits."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.{digits}g} {unit}"
        count /= 1024
    return f"{count:.4g} TiB"


def _speaks() -> bool:
    return environment.rank() == 0
