"""End a process: on a signal, where it can do no harm; of a rank, without waiting for its peers."""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import NoReturn

from core import terminal
from core.errors import CONTINUABLE
from core.run import ends, signals
from core.run.last_line import tell

GRACE_S = 20.0  # less than schedulers give


class Ending:
    """While `catching()`, a signal raises SystemExit with status CONTINUABLE at once.

    Within `held()` it does so at the next `allowed()` block or the end, so that nothing is left half-taken. A
    second Ctrl-C, or GRACE_S seconds in which the main thread did not come to it, end the process as it is.

    Outside of the main thread, which alone gets signals, it does nothing.  speaks: whether a line says so.
    """

    def __init__(self, *, speaks: bool = True) -> None:
        self._speaks, self._is_held, self._is_asked = speaks, False, False
        self._heard: list[signal.Signals] = []  # by the listening thread
        self._told = threading.Event()
        self._limit: threading.Timer | None = None

    @contextlib.contextmanager
    def catching(self) -> Iterator[None]:
        """Answer signals until the block ends."""
        try:
            with signals.answered_by(self):
                try:
                    yield
                finally:
                    if self._is_asked:  # the process may end now, and has to be heard first
                        self._told.wait(signals.GRACE_S)
        finally:
            if self._limit is not None:
                self._limit.cancel()

    @contextlib.contextmanager
    def holding_signals(self) -> Iterator[None]:
        """Hold signals back within the block."""
        with self._holding(True):
            yield
        self._end_if_asked()

    @contextlib.contextmanager
    def allowing_signals(self) -> Iterator[None]:
        """Let signals end the block, and one held back do so at once."""
        with self._holding(False):
            self._end_if_asked()
            yield

    @contextlib.contextmanager
    def _holding(self, is_held: bool) -> Iterator[None]:
        before, self._is_held = self._is_held, is_held
        try:
            yield
        finally:
            self._is_held = before

    def raise_flag(self, number: int) -> None:
        """Exit now, or remember to do so."""
        self._is_asked = True
        if not self._is_held:
            self._end_if_asked()

    def note(self, got: signal.Signals) -> None:
        """Say so; end the process on a second Ctrl-C, or when the main thread takes too long."""
        if got == signal.SIGINT and got in self._heard:
            os._exit(signals.INTERRUPTED)
        if not self._heard:
            self._limit = signals.end_after(GRACE_S, CONTINUABLE)
            if self._speaks:
                text = f"{got.name}: ending; the same command continues the work"
                tell(text)
                ends.record("asked", CONTINUABLE, text)
            self._told.set()
        self._heard.append(got)

    def _end_if_asked(self) -> None:
        if self._is_asked:
            raise SystemExit(CONTINUABLE)


def end_without_teardown(main: Callable[[], int]) -> NoReturn:
    """End this process with the status that `main` returns, after its threads and exit handlers.

    Left out is the interpreter's own teardown, which takes the modules apart one by one: half a second of CPU
    time where torch was imported, for nothing. What `main` raises goes its usual way.
    """
    status = 1
    left_at_last = atexit.register(lambda: _leave(status))
    try:
        status = main()
    except BaseException:
        atexit.unregister(left_at_last)
        raise
    sys.exit(status)


def _leave(status: int) -> NoReturn:
    """End at once; what was printed is out."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # no reader is left
            stream.flush()
    os._exit(status)


def end_with(main: Callable[[], int | None]) -> NoReturn:
    """End this process, one rank of several, with the status that `main` returns; 1 with a traceback if it
    raises.

    The interpreter's own shutdown is skipped: it destroys process groups, whose destructors wait for
    collectives that a dead peer will never answer (minutes, measured), or abort after a run that went well.
    """
    status = 1
    try:
        status = main() or 0
    except SystemExit as asked:
        status = asked.code if isinstance(asked.code, int) else int(asked.code is not None)
        if isinstance(asked.code, str):
            terminal.tell(asked.code)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        raise
    finally:
        _leave(status)
