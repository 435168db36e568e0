"""Reading third-party models with third-party libraries, which may raise any error at a damaged file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from core.errors import EndedEarly, UserError, WorkError
from core.files import published, require_regular


@contextmanager
def read_by_library(folder: Path, what: str) -> Iterator[None]:
    """Turn any error in the block into a one-line WorkError that says what the folder does not hold.

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
