"""Take a section out of a flat config, for a function that needs no more of it."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, TypeVar

Section = TypeVar("Section")


def section(kind: type[Section], config: Any) -> Section:
    """Make a dataclass of the fields of the same names in a config."""
    return kind(**{field.name: getattr(config, field.name) for field in fields(kind)})  # type: ignore[arg-type]
