"""Reading third-party models with third-party libraries, which may raise any error at a damaged file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from core.errors import EndedEarly, UserError, WorkError


@contextmanager
def read_by_library(folder: Path, what: str) -> Iterator[None]:
    """Turn any error in the block into a one-line WorkError that says what the folder does not hold.

    `tokenizers` raises plain Exception, and transformers and diffusers compute with the numbers of a
    configuration before anything has looked at them.
    """
    try:
        yield
    except (UserError, WorkError, EndedEarly):
        raise
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise WorkError(f"{folder} holds no readable {what}: {reason}") from None
