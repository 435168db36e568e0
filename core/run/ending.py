"""The end of a process: on a signal, where it can do no harm; of a rank, without waiting for its peers."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import NoReturn

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Ending:
    """While `catching()`, a signal raises SystemExit or KeyboardInterrupt at once.

    Within `held()` it does so at the next `allowed()` block or the end, so that nothing is left half-taken.

    Outside of the main thread, which alone gets signals, it does nothing.
    """

    def __init__(self) -> None:
        self._is_held, self._asked = False, 0

    @contextlib.contextmanager
    def catching(self) -> Iterator[None]:
        """Take the signals over until the block ends."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._note) for number in _SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Let signals wait."""
        with self._holding(True):
            yield
        self._end_if_asked()

    @contextlib.contextmanager
    def allowed(self) -> Iterator[None]:
        """Let signals end the block, and one that waits do so now."""
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

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._asked = number
        if not self._is_held:
            self._end_if_asked()

    def _end_if_asked(self) -> None:
        if self._asked == signal.SIGINT:
            raise KeyboardInterrupt
        if self._asked:
            raise SystemExit(128 + self._asked)


def end_with(main: Callable[[], int | None]) -> NoReturn:
    """End this process, one rank of several, with the status that `main` returns; 1 with a traceback if it
    raises.

    Nothing of the interpreter's own shutdown happens: it destroys process groups, whose destructors wait for
    collectives that a dead peer will never answer (minutes, measured), or abort after a run that went well.
    """
    status = 1
    try:
        status = main() or 0
    except SystemExit as asked:
        status = asked.code if isinstance(asked.code, int) else int(asked.code is not None)
        if isinstance(asked.code, str):
            print(asked.code, file=sys.stderr)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        raise
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
