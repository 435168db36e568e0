"""Answer signals that ask a process to end, from its first moment to its last.

One listener serves the whole process. The present work of the process decides the answer, and `answered_by`
changes that without touching a handler, so there is no moment at which a signal has its default effect.

Python runs a handler when the main thread is back in the interpreter, which an import, a rendezvous or a
collective may delay for minutes. A thread that reads the signals from the wakeup descriptor therefore says
or does what cannot wait.

Only light modules are imported here: this comes before everything else that a process imports.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Protocol

from core.errors import CONTINUABLE
from core.run import ends
from core.run.last_line import tell

SIGNALS = (signal.SIGTERM, signal.SIGUSR2, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP)
INTERRUPTED = 128 + signal.SIGINT
GRACE_S = 5.0  # for the main thread to leave, where it may clean up first
_NO_MORE = 0  # no signal has this number


class Answer(Protocol):
    """The response of a process to a signal. A signal is given to both methods, in any order.

    Where the answer changes while a signal is under way, each method may be that of another answer.
    """

    def raise_flag(self, number: int) -> None:
        """Act in the main thread, between two bytecodes, perhaps within this method for an earlier signal."""

    def note(self, got: signal.Signals) -> None:
        """Act in the listening thread, at once."""


class EndAtOnce:
    """Ends the process on the first signal, with one line.

    text: the line that is printed.  later: the same once another answer has stood.  continues: the status is
    CONTINUABLE, else 128 + the signal's number.  grace_s: how long the main thread, which leaves by
    SystemExit, may clean up; without it nothing is cleaned up. A second Ctrl-C ends that.
    """

    def __init__(self, text: str, later: str = "", *, continues: bool, grace_s: float = 0.0) -> None:
        self.text, self.later = text, later or text
        self._continues, self._grace_s = continues, grace_s
        self._begun, self._told = threading.Lock(), threading.Event()
        self._status, self._interrupts, self._has_left = 0, 0, False

    def raise_flag(self, number: int) -> None:
        """End the process, by an exception where there is time."""
        self._begin(signal.Signals(number))
        if self._grace_s and not self._has_left:
            self._has_left = True
            self._told.wait(self._grace_s)  # or the process could end before the line is out
            raise SystemExit(self._status)

    def note(self, got: signal.Signals) -> None:
        """End the process if the main thread does not get to it."""
        self._begin(got)
        self._interrupts += got == signal.SIGINT
        if self._interrupts > 1:
            os._exit(INTERRUPTED)

    def _begin(self, got: signal.Signals) -> None:
        """Print the line and see to the end; once, in whichever thread comes first."""
        if not self._begun.acquire(blocking=False):
            return
        self._status = CONTINUABLE if self._continues else 128 + got
        tell(f"{got.name}: {self.text}")
        ends.record("asked", self._status, f"{got.name}: {self.text}")
        if not self._grace_s:
            os._exit(self._status)
        end_after(self._grace_s, self._status)
        self._told.set()


def end_after(seconds: float, status: int) -> threading.Timer:
    """End the process with this status if it still lives then, unless this is cancelled first."""
    timer = threading.Timer(seconds, os._exit, [status])
    timer.daemon = True
    with contextlib.suppress(RuntimeError):  # the interpreter is shutting down already
        timer.start()
    return timer


def take_over(answer: Answer) -> None:
    """Answer signals from now to the end of the process, beginning with those that were held back."""
    global _listener
    _listener = _Listener(answer)


@contextlib.contextmanager
def answered_by(answer: Answer) -> Iterator[None]:
    """Have `answer` answer signals until the block ends; in the main thread only, which alone may.

    Without `take_over` the handlers are those from before once the block has ended.
    """
    global _listener
    if threading.current_thread() is not threading.main_thread():
        yield
    elif (listener := _listener) is not None:
        before, listener.answer = listener.answer, answer
        try:
            yield
        finally:
            if not listener.is_settled:
                if isinstance(before, EndAtOnce):
                    before.text = before.later
                listener.answer = before
    else:
        own = _listener = _Listener(answer)
        try:
            yield
        finally:
            _listener = None
            own.stop()


def settle() -> None:
    """Let no signal change how the process ends any more: it is ending. Only a Ctrl-C is still answered."""
    if _listener is not None and threading.current_thread() is threading.main_thread():
        _listener.settle()


@contextlib.contextmanager
def inherited_blocked() -> Iterator[None]:
    """Start processes for which signals wait until they `take_over`; their default effect would be death.

    Only the calling thread's mask changes: a signal to this process is still answered.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Listener:
    """Handlers for the signals, and the thread that hears them at once."""

    def __init__(self, answer: Answer) -> None:
        self.answer, self.is_settled = answer, False
        # Under nohup SIGHUP is ignored from the start, and has to stay so.
        ignored = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
        self.numbers = [number for number in SIGNALS if not (ignored and number == signal.SIGHUP)]
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        self._thread = threading.Thread(target=self._listen, name="signals", daemon=True)
        self._thread.start()
        self._wakeup = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        self._before = {number: signal.signal(number, self._handle) for number in self.numbers}
        for number in self.numbers:
            signal.siginterrupt(number, False)  # libraries need not know of signals
        self._mask = signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)

    def stop(self) -> None:
        """Restore everything, except what is settled."""
        for number, handler in self._before.items():
            if not (self.is_settled and number != signal.SIGINT):
                signal.signal(number, handler or signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)
        signal.set_wakeup_fd(self._wakeup)
        os.write(self._writer, bytes([_NO_MORE]))
        self._thread.join()
        os.close(self._reader)
        os.close(self._writer)

    def settle(self) -> None:
        """Ignore all but Ctrl-C for good. The interpreter's shutdown puts back handlers, but not this."""
        self.is_settled = True
        for number in self.numbers:
            if number != signal.SIGINT:
                signal.signal(number, signal.SIG_IGN)

    def forget(self) -> None:
        """Stop listening in a forked child: otherwise its signals would reach the parent through the pipe."""
        signal.set_wakeup_fd(-1)
        for number in self.numbers:
            default = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
            signal.signal(number, default)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.answer.raise_flag(number)

    def _listen(self) -> None:
        while True:
            for number in os.read(self._reader, 64):
                if number == _NO_MORE:
                    return
                if number in SIGNALS:
                    self.answer.note(signal.Signals(number))


_listener: _Listener | None = None


_forking = threading.local()  # the mask of a thread that is in a fork


def _before_fork() -> None:
    _forking.mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)


def _after_fork() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _forking.mask)


def _after_fork_in_child() -> None:
    global _listener
    if _listener is not None:
        listener, _listener = _listener, None
        listener.forget()
    _after_fork()


# Blocked in between, or a signal to a child that is not yet itself would be heard by its parent.
os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork_in_child)
