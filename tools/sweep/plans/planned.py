"""The interface of a kind of sweep: the runs that it plans."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from core.config.building import merge, under
from core.config.values import Typed
from core.errors import UserError


class Planned(NamedTuple):
    """A run as a sweep names it.

    name: of its folder.  fields: what it changes of the sweep's config, by path, as typed.  budget: FLOPs
    from which its steps follow; 0 leaves `trainer.steps`.  held_out: it is predicted, not fitted.
    """

    name: str
    fields: Mapping[str, str]
    budget: float = 0.0
    held_out: bool = False

    @property
    def changes(self) -> dict[str, Any]:
        """The fields as a partial config."""
        return merge([under(path.split("."), Typed(text)) for path, text in self.fields.items()])


class SweepConfig(Protocol):
    """The configuration of a sweep: a frozen dataclass, whose first field is `kind`."""

    @property
    def kind(self) -> str: ...

    def runs(self) -> list[Planned]:
        """Return all runs; UserError, naming a field of the section, for none or two equal ones."""
        ...


def pairs(text: str, field: str) -> dict[str, str]:
    """Read "width=64 depth=4" as {"width": "64", "depth": "4"}."""
    found = {}
    for word in text.split():
        name, equals, value = word.partition("=")
        if not equals or not name or not value or name in found:
            raise UserError(field, text, "field=value, separated by spaces, each field once")
        found[name] = value
    if not found:
        raise UserError(field, f"'{text}'", "field=value, separated by spaces")
    return found


def name_of(fields: Mapping[str, str]) -> str:
    """Return a name for a file from fields: the last part of each path and its value."""
    parts = (f"{path.rpartition('.')[2]}{value}" for path, value in fields.items())
    return "-".join(re.sub(r"[^\w.+]+", "-", part).strip("-") for part in parts)


def require_distinct(runs: Sequence[Planned], field: str) -> list[Planned]:
    """Return the runs; UserError naming the first that comes twice."""
    seen = set()
    for run in runs:
        if run.name in seen:
            raise UserError(field, run.name, "each run once, and this one is planned twice")
        seen.add(run.name)
    return list(runs)
