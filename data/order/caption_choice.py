"""Draw one of several captions of a sample, keyed by (sample, step), by weights."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from core.config.settings import setting
from core.draws import Draws
from core.errors import UserError

PURPOSE = "caption"  # of the draw


@dataclass(frozen=True, kw_only=True)
class CaptionConfig:
    """Which captions are drawn, and how often; samples with one caption are not concerned by weights."""

    caption_key: str = setting(
        "",
        "names of captions to draw from, where a sample has several; empty: all",
        shown="NAME[+NAME]",
    )
    caption_weights: tuple[float, ...] = setting(
        (),
        "weights of the names in caption_key, or without names of the first, second, ... caption of a "
        "sample (later ones are never drawn); []: the weights given by the data, else uniform",
    )

    def __post_init__(self) -> None:
        weights, keys = self.caption_weights, self.caption_keys
        if any(not 0 <= weight < math.inf for weight in weights) or (weights and not any(weights)):
            raise UserError("caption_weights", list(weights), "numbers from 0 on, not all 0; or []")
        if keys and weights and len(keys) != len(weights):
            raise UserError("caption_weights", list(weights), f"{len(keys)} numbers, one a name; or []")

    @property
    def caption_keys(self) -> tuple[str, ...]:
        """The names that `caption_key` holds."""
        return tuple(name.strip() for name in self.caption_key.split("+") if name.strip())

    def __str__(self) -> str:
        """Return the choice as a person sets it."""
        return f"caption_key={self.caption_key!r} caption_weights={list(self.caption_weights)}"

    @property
    def takes_all(self) -> bool:
        """Whether every caption may be drawn, as the data weigh them."""
        return not self.caption_keys and not self.caption_weights

    def weigh(self, names: Sequence[str], weights: Sequence[float]) -> list[float]:
        """Return the weights to draw by of the captions of one sample; all 0 where none is taken.

        names, weights: what the data say of each.  Captions of one name share the weight of the name.
        """
        keys = self.caption_keys
        if len(names) == 1 and not keys:
            return [1.0]
        if not keys:
            given = [*self.caption_weights, *[0.0] * len(names)][: len(names)]
            return given if self.caption_weights else list(weights)
        if not self.caption_weights:
            return [weight if name in keys else 0.0 for name, weight in zip(names, weights, strict=True)]
        wanted = dict(zip(keys, self.caption_weights, strict=True))
        totals: Counter[str] = Counter()
        for name, weight in zip(names, weights, strict=True):
            totals[name] += weight  # type: ignore[assignment]
        return [
            wanted.get(name, 0.0) * weight / totals[name] if totals[name] else 0.0
            for name, weight in zip(names, weights, strict=True)
        ]


ANY_CAPTION = CaptionConfig()


def choose(weights: Sequence[float], u: float) -> int | None:
    """Return the place that u, uniform in (0, 1), draws by `weights`; None where all are 0.

    A plain sum in order, so that the result depends on nothing else in the batch.
    """
    target, passed, last = u * sum(weights), 0.0, None
    for place, weight in enumerate(weights):
        passed += weight
        if weight > 0:
            last = place
            if target < passed:
                return place
    return last


def uniforms(draws: Draws) -> list[float]:
    """Return what draws the caption of each sample."""
    found: list[float] = draws.uniform(PURPOSE).tolist()
    return found
