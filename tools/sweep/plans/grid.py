"""Grids: every combination of values of any fields, such as learning rate x width."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Literal

from core.config.settings import setting
from core.errors import UserError
from tools.sweep.plans.planned import Planned, name_of, require_distinct


@dataclass(frozen=True, kw_only=True)
class GridConfig:
    """All combinations of the values of some fields."""

    kind: Literal["grid"] = setting("grid", "the kind of sweep")
    over: tuple[str, ...] = setting(
        (),
        "fields and their values, such as 'optimizer.lr=1e-3 2e-3' and 'model.width=64 128'; fields that "
        "change together are written 'model.width+model.heads=64+2 128+4'; values may be added later",
        role="work",
    )
    budget: float = setting(
        0.0, "FLOPs of each run, from which its steps follow; 0 takes trainer.steps", unit="FLOPs", low=0
    )

    def runs(self) -> list[Planned]:
        """Return the combinations, the last field varying fastest."""
        if not self.over:
            raise UserError("over", "[]", "at least one field with its values")
        combinations = itertools.product(*(_axis(text) for text in self.over))
        merged = [{name: value for part in each for name, value in part.items()} for each in combinations]
        named = [name for text in self.over for name in text.partition("=")[0].split("+")]
        if len(set(named)) < len(named):
            raise UserError("over", list(self.over), "each field once")
        runs = [Planned(name_of(fields), fields, self.budget) for fields in merged]
        return require_distinct(runs, "over")


def _axis(text: str) -> list[dict[str, str]]:
    """Read "a.b+c=1+x 2+y" as [{"a.b": "1", "c": "x"}, {"a.b": "2", "c": "y"}]."""
    left, equals, right = text.partition("=")
    names, values = left.strip().split("+"), right.split()
    if not equals or not all(names) or not values:
        raise UserError("over", text, "field=value value ..., in which lists have no spaces")
    parts = [value.split("+") if len(names) > 1 else [value] for value in values]
    for value, part in zip(values, parts, strict=True):
        if len(part) != len(names):
            raise UserError("over", value, f"{len(names)} values joined by +, as in {left}")
    return [dict(zip(names, part, strict=True)) for part in parts]
