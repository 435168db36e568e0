"""IsoFLOP plans: several sizes of the network for each budget of FLOPs (arXiv:2203.15556, approach 2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from core.config.settings import setting
from core.errors import UserError
from tools.sweep.plans.planned import Planned, name_of, pairs, require_distinct


@dataclass(frozen=True, kw_only=True)
class IsoflopConfig:
    """Every size for every budget, but for those that are left out."""

    kind: Literal["isoflop"] = setting("isoflop", "the kind of sweep")
    budgets: tuple[float, ...] = setting(
        (), "training FLOPs of a run; more may be added later", unit="FLOPs", low=1, role="work"
    )
    sizes: tuple[str, ...] = setting(
        (),
        "sizes of the network, each as fields of `model`, such as 'width=64 depth=4'; more may be added",
        role="work",
    )
    least_steps: int = setting(
        1,
        "leave out runs with fewer steps: large networks at small budgets",
        unit="steps",
        low=1,
        role="work",
    )
    most_epochs: float = setting(
        0.0,
        "leave out runs that see the samples more often: small networks at large budgets; 0 is no limit",
        low=0,
        role="work",
    )
    held_out: tuple[str, ...] = setting(
        (),
        "runs that are predicted and excluded from the fit: a budget and a size each, such as '4e15 "
        "width=192 depth=8'",
        role="work",
    )

    def runs(self) -> list[Planned]:
        """Return every size for every budget, budgets from small to large, then those that are predicted."""
        if not self.budgets or not self.sizes:
            raise UserError("budgets" if not self.budgets else "sizes", "[]", "at least one")
        sizes = [_fields(size, "sizes") for size in self.sizes]
        fitted = [_run(budget, size) for budget in sorted(self.budgets) for size in sizes]
        held_out = []
        for text in self.held_out:
            budget, _, size = text.strip().partition(" ")
            held_out.append(_run(_number(budget, text), _fields(size, "held_out"), held_out=True))
        both = require_distinct(fitted, "budgets and sizes"), require_distinct(held_out, "held_out")
        require_distinct([*both[0], *both[1]], "held_out")
        return [*both[0], *both[1]]


def _fields(text: str, field: str) -> dict[str, str]:
    found = pairs(text, field)
    if "preset" in found:
        expected = "the fields of that shape, such as width=384 depth=12 heads=6"
        raise UserError(field, f"preset={found['preset']}", expected)
    return {f"model.{name}": value for name, value in found.items()}


def _run(budget: float, size: dict[str, str], *, held_out: bool = False) -> Planned:
    return Planned(f"{budget:g}-{name_of(size)}", size, budget, held_out)


def _number(word: str, text: str) -> float:
    try:
        value = float(word)
    except ValueError:
        value = 0.0
    if not 1 <= value < float("inf"):
        raise UserError("held_out", text, "a budget in FLOPs, then fields of `model`")
    return value
