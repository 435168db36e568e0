"""Text files with a number in each line."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

from core.errors import UserError
from core.files import read_text
from core.reading.instead import instead

LARGEST_FILE = 1 << 22  # bytes


def read_numbers(
    path: str, field: str, what: str, many: str, fits: Callable[[float], bool], expected: str, most: int
) -> tuple[float, ...]:
    """Read 2 to `most` numbers, one in each line that is not empty.

    UserError of `field` for what is no such file.  what, many: that numbers of it stand for, as "rate" and
    "rates".  fits: whether a number is one, and expected: which are, in words.
    """
    file = Path(path)
    try:
        text = read_text(file, LARGEST_FILE)
    except FileNotFoundError:
        raise UserError(field, path, f"a file with a {what} in each line{instead(file)}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(field, path, f"a text file with a {what} in each line: {error}") from None
    numbers = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            value = float(line)
        except ValueError:
            value = math.nan
        if not fits(value):
            raise UserError(field, line.strip()[:40], f"{expected}, in line {number} of {path}")
        numbers.append(value)
    if not 2 <= len(numbers) <= most:
        raise UserError(field, path, f"2 to {most} {many}, one in each line; it has {len(numbers)}")
    return tuple(numbers)
