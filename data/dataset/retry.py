"""Retry reads from storage that fails for a moment, with waits that double, until attempts are used up."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO, TypeVar

from core import environment
from core.errors import StorageError
from core.progress import say

T = TypeVar("T")

CHUNK = 1 << 20  # bytes
# Errors of fsspec's drivers that are not OSErrors, as most are: module and name.
_OF_DRIVERS = (
    ("botocore.exceptions", "BotoCoreError"),
    ("aiohttp", "ClientError"),
    ("gcsfs.retry", "HttpError"),
)
# Errors of the system by which storage, the network or the machine fails, whatever file is asked for.
_OF_STORAGE = frozenset(
    (
        *(errno.EIO, errno.ESTALE, errno.EREMOTEIO, errno.ENOSPC, errno.EDQUOT, errno.EROFS),
        *(errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.EBUSY, errno.ENOLINK, errno.ENODEV),
        *(errno.ETIMEDOUT, errno.ECONNRESET, errno.ECONNABORTED, errno.ECONNREFUSED, errno.ENOTCONN),
        *(errno.ENETDOWN, errno.ENETUNREACH, errno.ENETRESET, errno.EHOSTDOWN, errno.EHOSTUNREACH),
        errno.ESHUTDOWN,
    )
)
_LASTING = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)
_LASTING_NAMES = ("NoCredentialsError", "PartialCredentialsError")  # raised by botocore
_LASTING_CODES = (400, 401, 403, 404, 405, 410)  # HTTP status codes


@dataclass(frozen=True)
class Retry:
    """attempts: failures in a row, without progress, after which to give up. first_s: the longest first wait.

    sleep: waits so many seconds.
    """

    attempts: int = 6
    first_s: float = 1.0
    sleep: Callable[[float], None] = time.sleep

    def call(self, name: str, work: Callable[[], T]) -> T:
        """Return what `work` returns; raise StorageError, naming `name`, when it has failed `attempts` times.

        Errors that waiting does not mend (missing, forbidden) are raised unchanged, at once.
        """
        for failed in range(1, self.attempts + 1):
            try:
                return work()
            except _errors_of_reading() as error:
                if is_permanent(error):
                    raise
                reason = f"{type(error).__name__}: {error}"
            if failed < self.attempts:
                self._wait(name, failed, reason)
        raise StorageError(f"{name}: cannot be read, tried {self.attempts} times: {reason}")

    def storage(self, name: str, work: Callable[[], T]) -> T:
        """Return what `work` returns, retried where storage or memory fails; raise its last error unchanged.

        Other errors are raised at once.
        """
        for failed in range(1, self.attempts):
            try:
                return work()
            except (OSError, MemoryError) as error:
                if not is_of_storage(error):
                    raise
                reason = f"{type(error).__name__}: {error}"
            self._wait(name, failed, reason)
        return work()

    def _wait(self, name: str, failed: int, reason: str) -> None:
        wait = self.wait_s(name, failed)
        say(f"warning: {name}: {reason}; once more in {wait:.1f} s ({failed} of {self.attempts})")
        self.sleep(wait)

    def chunks(self, name: str, open_file: Callable[[], IO[bytes]]) -> Iterator[bytes]:
        """Yield the bytes of a file; after a failure, reopen it and read on from where it stopped."""
        with contextlib.closing(_Source(open_file)) as source:
            while chunk := self.call(name, source.read):
                yield chunk

    def wait_s(self, name: str, failed: int) -> float:
        """Return the wait in seconds after failure number `failed`, from 1: doubled each time, minus up to
        half.

        How much less is a hash of name, number and rank, so that not all come back at the same moment.
        """
        digest = hashlib.sha256(f"{name} {failed} {environment.rank()}".encode()).digest()
        return self.first_s * 2 ** (failed - 1) * (1 - digest[0] / 512)


def is_permanent(error: BaseException) -> bool:
    """Return whether a retry would fail the same way."""
    named = type(error).__name__ in _LASTING_NAMES
    return isinstance(error, _LASTING) or named or getattr(error, "code", None) in _LASTING_CODES


def is_of_storage(error: BaseException) -> bool:
    """Return whether storage or memory failed, rather than the one file that was asked for."""
    return isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno in _OF_STORAGE)


class _Source:
    """A file that is read in order, and reopened where it stopped after a read that raised."""

    def __init__(self, open_file: Callable[[], IO[bytes]]) -> None:
        self._open, self._place = open_file, 0
        self._file: IO[bytes] | None = None

    def read(self) -> bytes:
        if self._file is None:
            self._file = self._open()
            self._file.seek(self._place)
        try:
            chunk = self._file.read(CHUNK)
        except BaseException:
            self.close()
            raise
        self._place += len(chunk)
        return chunk

    def close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            file.close()


def _errors_of_reading() -> tuple[type[BaseException], ...]:
    """Return the errors of reading: the system's, and those of the storage drivers that are imported."""
    found = (getattr(sys.modules.get(module), name, None) for module, name in _OF_DRIVERS)
    return (OSError, *(kind for kind in found if kind is not None))
