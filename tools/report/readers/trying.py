"""Read a piece of a folder; what is damaged becomes a line of the report."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from core.errors import UserError, WorkError
from core.files import read_bytes
from core.reading.open_files import message_of
from tools.report.output import Output, Picture

T = TypeVar("T")
LARGEST = 32 << 20  # bytes of a picture or video that is put into a page
KINDS = {".png": "image/png", ".jpg": "image/jpeg", ".mp4": "video/mp4", ".webp": "image/webp"}


def tried(output: Output, what: str, read: Callable[[], T], otherwise: T) -> T:
    """Return what `read` gives; where it cannot, note the reason as a trouble and return `otherwise`."""
    try:
        return read()
    except FileNotFoundError:
        output.troubles.append(f"{what}: missing")
    except (OSError, UserError, WorkError) as error:
        reason = message_of(error) if isinstance(error, OSError) else str(error)
        output.troubles.append(f"{what}: {reason}")
    return otherwise


def add_pictures(output: Output, files: list[Path], note: str = "") -> None:
    """Add the pictures and videos among these files that are there."""
    for path in files:
        if not path.is_file():
            continue
        data = tried(output, str(path), lambda path=path: read_bytes(path, LARGEST), b"")  # type: ignore[misc]
        if data:
            name = f"{path.parent.name}/{path.name}"
            output.pictures.append(Picture(name, KINDS[path.suffix], data, note))
