"""Somebody else's models, read by somebody else's library, which may raise anything at a damaged file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from core.errors import EndedEarly, UserError, WorkError
from core.files import published, require_regular


@contextmanager
def read_by_library(folder: Path, what: str) -> Iterator[None]:
    """Have whatever the block raises say, as a WorkError of one line, that the folder holds no such thing.

    A library may wait for ever for a pipe, so what is no regular file is refused before the block.
    `tokenizers` raises plain Exception, and transformers and diffusers compute with the numbers of a
    configuration before anything has looked at them.
    """
    try:
        for path in published(folder):
            if not path.is_dir():
                require_regular(path)
        yield
    except (UserError, WorkError, EndedEarly):
        raise
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise WorkError(f"{folder} holds no readable {what}: {reason}") from None
