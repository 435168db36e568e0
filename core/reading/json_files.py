"""Read JSON files by a schema: parsed, checked, and returned as the types that it names.

A schema is a type, as `core.reading.json_schema` says. A text has a UTF-8 form, which a lone surrogate has
not.
"""

from __future__ import annotations

import json
import math
from collections.abc import Hashable
from pathlib import Path
from typing import Any, TypeVar, cast

from core.errors import WorkError
from core.files import read_bytes, sealed
from core.reading.json_scalars import Mismatch
from core.reading.json_schema import reader_of

T = TypeVar("T")

LARGEST = 1 << 28  # bytes: twenty times the manifest of a dataset of 100,000 shards


class Malformed(WorkError):
    """A file does not hold what its schema requires."""


def read(path: Path, schema: type[T], most: int = LARGEST) -> T:
    """Read a file of at most `most` bytes by its schema.

    Malformed names the file, the place in it and what is expected there; OSError where it cannot be read, or
    is larger, of which nothing is parsed.
    """
    return parse(read_bytes(path, most), schema, path)


def read_sealed(path: Path, schema: type[T]) -> T:
    """Read what `core.files.sealed` gave, as `read`; Malformed also where the rest is not what its hash says.

    A file without a hash, as earlier versions wrote it, is read as it is.
    """
    found = read(path, dict[str, Any])
    require_seal(found, path)
    found.pop("sha256", None)
    return checked(found, schema, path)


def require_seal(content: dict[str, Any], path: Path) -> None:
    """Raise Malformed if `content` has a hash that is not that of the rest."""
    if "sha256" in content and content != sealed(content):
        raise Malformed(f"{path} is damaged: it differs from its own SHA-256")


def parse(data: bytes, schema: type[T], source: Path | str) -> T:
    """Read bytes by their schema.  source: their name in a refusal."""
    return checked(loaded(data, source), schema, source)


def checked(value: Any, schema: type[T], source: Path | str) -> T:
    """Read a value that JSON gave by its schema; Malformed as in `read`."""
    try:
        return cast(T, reader_of(cast(Hashable, schema))(value))
    except Mismatch as mismatch:
        raise Malformed(f"{source}: {mismatch.message()}") from None


def loaded(data: bytes, source: Path | str) -> Any:
    """Parse JSON whose content is not known; Malformed where it is none, or a text has no UTF-8 form."""
    try:
        text = data.decode("utf-8")
        value = json.loads(text, parse_float=_finite, parse_constant=_finite)
        if "\\u" in text:
            require_utf8(value)
    except RecursionError:
        raise Malformed(f"{source}: not readable as JSON: nested too deeply") from None
    except ValueError as error:
        raise Malformed(f"{source}: not readable as JSON: {error}") from None
    return value


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is no finite number")
    return value


def require_utf8(value: Any) -> None:
    """Raise ValueError where a text in a JSON value has no UTF-8 form: it has half of a surrogate pair."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ValueError("a text in it has a lone surrogate, which is no character") from None


def plain(value: Any) -> Any:
    """Return a value as JSON gives it back: tuples become lists, keys texts."""
    return json.loads(json.dumps(value))
