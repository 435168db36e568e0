"""Declare a config field with its meaning, unit, range and role; `core.config.loading` reads the values."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

REQUIRED: Any = "???"
Role = Literal["result", "work", "watch", "place"]
"""What a field is to an output that is continued, compared by `core.run.claim`.

result: it decides what is made, so a differing value is refused.  work: how that is carried out.  watch: what
is observed of it; both may differ.  place: where something lies, which may move while its content stays.
"""


def setting(
    default: Any,
    help: str,
    *,
    unit: str = "",
    low: float | None = None,
    high: float | None = None,
    shown: str = "",
    role: Role = "result",
    kinds: Mapping[str, type] | None = None,
    repeats: bool = False,
    earlier: Any = dataclasses.MISSING,
) -> Any:
    """Return a dataclass field with meaning, unit and accepted range; with `REQUIRED` the user must give it.

    low, high: inclusive bounds, checked by `core.config.loading.load` and shown by `--help`.
    shown: what `--help` says instead of the type, where that says too little ("path or URL").
    role: what a changed value means when an output is continued.
    kinds: for a section that can be of several classes: each by its name, which the section's own first
    field, `kind`, holds. The field is then annotated with their protocol, and the default says the usual
    kind.
    repeats: for a list of texts: typed several times, `field=A field=B`, it is all of them, each one text.
    earlier: what a record without the field stands for, where that is not the default: that of a version
    which did not have it yet.
    A dataclass or list default is shared safely, since config dataclasses are frozen.
    """
    facts = {"help": help, "unit": unit, "low": low, "high": high, "shown": shown}
    metadata = {**facts, "role": role, "kinds": kinds, "repeats": repeats, "earlier": earlier}
    if dataclasses.is_dataclass(default) or isinstance(default, (list, dict)):
        return dataclasses.field(default_factory=lambda: default, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)
