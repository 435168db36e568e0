"""Open files of a source: regular files only, and none that links lead out of it."""

from __future__ import annotations

import errno
import functools
import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from core.errors import UserError
from core.files import regular

LONGEST_LINE = 1 << 24  # characters of a line of a table, and so of all captions of a sample
LARGEST_WHOLE = 1 << 28  # bytes of a table that is read as a whole
LEAVES = "a link leads out of the source (links=follow reads it)"
Opener = Callable[[str, int], int]


def opener_within(folder: str) -> Opener:
    """Return an `opener` for `open`: OSError for an irregular file, or a link that leads out of `folder`.

    It is the open file that is looked at, so a link put there since the listing is found too.
    folder: "" is anywhere.
    """
    return functools.partial(_open_within, folder) if folder else regular


def open_within(path: Path, folder: str, *, buffering: int = -1) -> IO[bytes]:
    """Open a file of a source for reading bytes, as `opener_within` says."""
    return open(path, "rb", buffering=buffering, opener=opener_within(folder))


def lines_of(file: IO[str], path: Path) -> Iterator[str]:
    """Yield the lines of a text file; UserError for one that is longer than a row of any table."""
    for number in itertools.count(1):
        line = file.readline(LONGEST_LINE + 1)
        if not line:
            return
        if len(line) > LONGEST_LINE:
            raise UserError(
                f"{path}: line {number} is longer than {LONGEST_LINE} characters, the most of a row"
            )
        yield line


def read_within(path: Path, folder: str) -> bytes:
    """Read a table that must be in memory as a whole; UserError if it is too large."""
    with open_within(path, folder) as file:
        data = file.read(LARGEST_WHOLE + 1)
    if len(data) > LARGEST_WHOLE:
        raise UserError(f"{path}: larger than {LARGEST_WHOLE} bytes; write it as JSON lines (.jsonl) or CSV")
    return data


def is_within(path: str, folder: str) -> bool:
    """Return whether a file lies in a folder once all links are followed. folder: "" is anywhere."""
    return not folder or Path(os.path.realpath(path)).is_relative_to(_real(folder))


def _open_within(folder: str, path: str, flags: int) -> int:
    descriptor = regular(path, flags)
    try:
        real = os.path.realpath(path)
        same = os.path.samestat(os.lstat(real), os.fstat(descriptor))
        if not same or not Path(real).is_relative_to(_real(folder)):
            raise OSError(errno.ELOOP, LEAVES, path)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


@functools.lru_cache(maxsize=16)
def _real(folder: str) -> str:
    return os.path.realpath(folder)
