"""Exponential moving averages of the weights, kept in fp32 on the optimizer's own shards.

An average of a shard is the shard of the average, so every rank averages what it owns: no communication and
1/N of the memory, bit for bit what averaging whole parameters gives.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from core.errors import UserError
from core.settings import setting


@dataclass(frozen=True, kw_only=True)
class EmaConfig:
    """Which averages of the weights are kept; the first is the one that sampling uses."""

    decay: float = setting(0.9999, "what remains of the average in one update", low=0.0, high=1.0)
    extra_decays: tuple[float, ...] = setting((), "further averages, kept at the same time")
    every: int = setting(
        1, "updates between two touches of the averages (decay corrected)", unit="updates", low=1
    )
    warmup: float = setting(10.0, "update n uses at most n / (n + warmup): early weights fade soon", low=0.0)

    def __post_init__(self) -> None:
        decays = (self.decay, *self.extra_decays)
        if not all(0.0 <= decay <= 1.0 for decay in decays):
            raise UserError("extra_decays", self.extra_decays, "numbers in [0, 1]")
        if len(set(decays)) < len(decays):
            raise UserError("extra_decays", self.extra_decays, "each decay once, and not `decay` again")

    @property
    def names(self) -> list[str]:
        """How the averages are called in checkpoints; the main one first."""
        return [f"{decay:g}" for decay in (self.decay, *self.extra_decays)]


class Ema:
    """The averages of this rank's master shards.

    averages: name -> tensors laid out like the `flats` they follow.
    """

    def __init__(self, config: EmaConfig, flats: list[Tensor]) -> None:
        self.config = config
        decays = (config.decay, *config.extra_decays)
        self._decays = dict(zip(config.names, decays, strict=True))
        self.averages = {name: [flat.detach().clone() for flat in flats] for name in self._decays}

    @torch.no_grad()
    def update(self, flats: list[Tensor], updates: int) -> None:
        """Follow the masters after the optimizer's update number `updates` (1, 2, ...)."""
        if updates % self.config.every:
            return
        sources = [flat.detach() for flat in flats]
        for name, averages in self.averages.items():
            kept = remaining(self._decays[name], updates, self.config.every, self.config.warmup)
            torch._foreach_lerp_(averages, sources, 1.0 - kept)


def remaining(decay: float, updates: int, every: int, warmup: float) -> float:
    """What the `every` updates that end with number `updates` leave of the average before them."""
    steps = range(updates - every + 1, updates + 1)
    return math.prod(min(decay, n / (n + warmup)) if warmup > 0 else decay for n in steps)
