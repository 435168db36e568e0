"""The only writer to standard output and standard error, which never fails because of them.

The reader of a job's output may go away: a terminal closes, a pipe's reader ends or stops reading, the disk
of a log file fills up. The job's own files are its record, so it goes on; lost lines are counted, and
reported where they are missing once something gets through again.

Texts may hold what others wrote, so their control characters are spelled out (`core.escaping`).
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import select
import stat
import sys
import time
import traceback
from types import TracebackType
from typing import IO, Any, Literal

from core.escaping import escaped

PATIENCE_S = 1.0  # for a reader that has stopped reading; from then on nothing waits until it reads again
CLEAR_LINE = "\r\x1b[K"
PIECE = 4096  # bytes that a pipe takes without waiting once it is ready: PIPE_BUF of Linux

Name = Literal["stdout", "stderr"]


class _Output:
    """The state of one of the two streams: how many lines it did not take, and why."""

    def __init__(self) -> None:
        self.lost, self.reason, self._is_stuck = 0, "", False

    def write(self, stream: IO[str] | None, text: str) -> bool:
        """Write and flush `text`; return whether all of it was taken."""
        try:
            if stream is None:
                raise OSError(errno.EBADF, "closed")
            descriptor = _descriptor(stream)
            if descriptor is None:
                stream.write(self._note() + text)
                stream.flush()
                self.lost = 0
            else:
                stream.flush()  # what others have printed comes first
                self.send(descriptor, _encoded(stream, text))
        except (OSError, ValueError) as error:  # ValueError: the stream was closed
            self.lose(text, getattr(error, "strerror", None) or str(error))
            return False
        return True

    def lose(self, text: str, reason: str) -> None:
        """Count lines that could not be shown."""
        self.lost, self.reason = self.lost + max(1, text.count("\n")), reason

    def send(self, descriptor: int, data: bytes) -> None:
        """Give the system all of `data`; OSError where it is not taken in time."""
        own = _not_waiting(descriptor)
        try:
            self._send(descriptor if own is None else own, self._note().encode() + data)
        finally:
            if own is not None:
                os.close(own)
        self.lost, self._is_stuck = 0, False

    def _send(self, descriptor: int, data: bytes) -> None:
        ready = select.poll()
        ready.register(descriptor, select.POLLOUT)
        deadline = time.monotonic() + (0 if self._is_stuck else PATIENCE_S)
        while data:
            if not ready.poll(max(0.0, deadline - time.monotonic()) * 1000):
                self._is_stuck = True
                raise OSError(errno.EAGAIN, "its reader has stopped reading")
            with contextlib.suppress(BlockingIOError):
                data = data[os.write(descriptor, data[:PIECE]) :]

    def _note(self) -> str:
        lines = "line was" if self.lost == 1 else "lines were"
        return f"({self.lost} {lines} lost here: {self.reason})\n" if self.lost else ""


_OUTPUTS: dict[Name, _Output] = {"stdout": _Output(), "stderr": _Output()}


def tell(text: str, *, to: Name = "stderr", end: str = "\n", clear: bool = False) -> bool:
    """Write a line that matters less than the work that it reports; return whether it got through.

    clear: wipe the line of a terminal first.
    """
    return _OUTPUTS[to].write(getattr(sys, to), (CLEAR_LINE if clear else "") + escaped(text) + end)


def deliver(text: str, *, end: str = "\n") -> None:
    """Write a job's result to standard output; OSError where that does not take it.

    Bypasses the stream's own buffer, which would be written once more when the interpreter ends.
    """
    stream = sys.stdout
    if stream is None:
        raise OSError(errno.EBADF, "standard output is closed")
    text = escaped(text)
    descriptor = _descriptor(stream)
    if descriptor is None:
        stream.write(text + end)
        return
    stream.flush()
    data = _encoded(stream, text + end)
    while data:
        data = data[os.write(descriptor, data) :]


def is_terminal() -> bool:
    """Return whether standard error is a terminal."""
    try:
        return sys.stderr is not None and sys.stderr.isatty()
    except ValueError:  # closed
        return False


def lost(text: str, reason: str) -> None:
    """Count a line on standard error that could not even be made."""
    _OUTPUTS["stderr"].lose(text, reason)


def survive() -> None:
    """Let this process outlive its standard error, whatever writes there; called once, first of all.

    A stream that was closed becomes the null device, or the next file that is opened would get its number,
    and what libraries print would end up in there.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)
            os.dup2(null, number)
            if null != number:
                os.close(null)
            os.set_inheritable(number, True)
        if getattr(sys, name) is None:
            mode = "w" if number else "r"
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115 (it stays)
    sys.stderr = _surviving("stderr", sys.stderr)
    sys.excepthook = _tell_traceback


def _tell_traceback(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    tell("".join(traceback.format_exception(kind, error, trace)), end="")


def survive_output() -> None:
    """Let this process outlive its standard output as well, in a job whose result is in files.

    Nothing where `survive` was not called: then the process is not ours.
    """
    if isinstance(getattr(sys.stderr, "buffer", None), _Surviving):
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
        sys.stdout = _surviving("stdout", sys.stdout)


class _Surviving(io.RawIOBase):
    """A stream that takes everything; what its descriptor does not take is counted."""

    def __init__(self, output: _Output, descriptor: int) -> None:
        self._output, self._descriptor = output, descriptor

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def fileno(self) -> int:
        return self._descriptor

    def write(self, data: Any) -> int:
        """Take all of it."""
        content = bytes(data)
        try:
            self._output.send(self._descriptor, content)
        except OSError as error:
            self._output.lose(content.decode("utf-8", "replace"), error.strerror or str(error))
        return len(content)


def _surviving(name: Name, stream: IO[str]) -> IO[str]:
    """Return a text stream in front of a descriptor; one without, as in a test, is left as it is."""
    descriptor = _descriptor(stream)
    if descriptor is None:
        return stream
    raw = _Surviving(_OUTPUTS[name], descriptor)
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return io.TextIOWrapper(raw, encoding=encoding, errors="backslashreplace", write_through=True)  # type: ignore[type-var]


def _descriptor(stream: IO[str]) -> int | None:
    try:
        return stream.fileno()
    except (OSError, ValueError, AttributeError):
        return None


def _encoded(stream: IO[str], text: str) -> bytes:
    return text.encode(getattr(stream, "encoding", None) or "utf-8", "backslashreplace")


def _not_waiting(descriptor: int) -> int | None:
    """Return another descriptor of a terminal or pipe, which never waits; None where there cannot be one.

    To make `descriptor` itself so would do the same to the shell, and to all others that share it.
    """
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISFIFO(mode) and not (stat.S_ISCHR(mode) and os.isatty(descriptor)):
        return None
    try:
        return os.open(f"/proc/self/fd/{descriptor}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError as error:
        if error.errno == errno.ENXIO:  # a pipe that nobody reads
            raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE)) from None
        return None  # no /proc, or a terminal of another user
