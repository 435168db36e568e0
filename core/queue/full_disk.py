"""Errors of a disk on which nothing can be written any more, in words that name the output."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path

from core.errors import WorkError

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)  # no unit is to blame


@contextlib.contextmanager
def naming_output(output: Path) -> Iterator[None]:
    """Turn such an error into a WorkError that names the output, and what to do."""
    try:
        yield
    except OSError as error:
        if (without_room := described(output, error)) is not None:
            raise without_room from None
        raise


def described(output: Path, error: Exception) -> WorkError | None:
    """Return what to say of such an error, None for any other."""
    if not isinstance(error, OSError) or error.errno not in NO_ROOM:
        return None
    kept = "what is made is kept, and the same command continues when there is room"
    return WorkError(f"{output}: {error.strerror}; {kept}")
