"""Exponential moving averages of the weights, kept in fp32 on the optimizer's own shards.

An average of a shard is the shard of the average, so every rank averages what it owns: no communication and
1/N of the memory, bit for bit what averaging whole parameters gives.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from core.averages import power_ema
from core.config.settings import setting
from core.errors import UserError


@dataclass(frozen=True, kw_only=True)
class EmaConfig:
    """Which averages of the weights to keep; sampling uses the first one."""

    decay: float = setting(0.9999, "decay of the main average per update", low=0.0, high=1.0)
    extra_decays: tuple[float, ...] = setting((), "further averages, kept at the same time")
    every: int = setting(
        1, "steps between updates of the averages; the decay is corrected for it", unit="updates", low=1
    )
    warmup: float = setting(
        10.0, "limit the decay of update n to n / (n + warmup), so that early weights fade quickly", low=0.0
    )
    power_widths: tuple[float, ...] = setting(
        (),
        "also keep averages whose length grows with the run, by relative width; two, such as [0.05, 0.1],"
        " allow any width to be reconstructed afterwards",
    )
    snapshot_every: int = setting(
        1000,
        "steps between small copies of the power averages, for `export ema_sigma=`",
        unit="steps",
        low=1,
        role="work",
    )

    def __post_init__(self) -> None:
        decays = (self.decay, *self.extra_decays)
        if not all(0.0 <= decay <= 1.0 for decay in decays):
            raise UserError("extra_decays", self.extra_decays, "numbers in [0, 1]")
        if len(set(decays)) < len(decays):
            raise UserError("extra_decays", self.extra_decays, "each decay once, and not `decay` again")
        if not all(0.0 < width < power_ema.WIDEST for width in self.power_widths):
            raise UserError("power_widths", self.power_widths, f"above 0 and below {power_ema.WIDEST:.3f}")
        if len(self.widths) < len(self.power_widths):
            raise UserError("power_widths", self.power_widths, "each width once")

    @property
    def names(self) -> list[str]:
        """Return the names of the averages in checkpoints, the main one first."""
        return [f"{decay:g}" for decay in (self.decay, *self.extra_decays)] + list(self.widths)

    @property
    def widths(self) -> dict[str, float]:
        """Return the relative width of each power average, by its name."""
        return {f"sigma-{width:g}": width for width in self.power_widths}


FAINT = 0.05  # a smaller share of the random start in an average does not show


def require_updates(config: EmaConfig, steps: int) -> None:
    """Raise UserError where `steps` steps never update the averages, or never copy the power ones."""
    if config.every > steps:
        raise UserError("every", config.every, f"at most trainer.steps={steps}, or no average is touched")
    if config.power_widths and config.snapshot_every > steps:
        expected = f"at most trainer.steps={steps}, or no copy for `export ema_sigma=` is made"
        raise UserError("snapshot_every", config.snapshot_every, expected)


def weak_averages(config: EmaConfig, steps: int, start_is: str = "the random start") -> list[str]:
    """Say which averages still hold much of the start after `steps` updates, and how much.

    start_is: what a run begins from, for a person.
    """
    found = []
    for number, decay in enumerate((config.decay, *config.extra_decays)):
        start = start_share(decay, steps - steps % config.every, config.warmup)
        if start > FAINT:
            field = "ema.decay" if number == 0 else "ema.extra_decays"
            what = f"{start:.0%} of the average is still {start_is} after {steps} steps"
            found.append(f"{field}={decay:g}: {what}; a smaller decay or ema.warmup above 0 forgets it")
    return found


def start_share(decay: float, updates: int, warmup: float) -> float:
    """Return the weight of the initial parameters in an average after `updates` updates."""
    n = np.arange(1, updates + 1, dtype=np.float64)
    kept = np.minimum(decay, n / (n + warmup)) if warmup > 0 else np.full(updates, decay)
    return float(np.exp(np.log(kept).sum())) if kept.all() else 0.0


class Ema:
    """The averages of this rank's master shards.

    averages: name -> tensors laid out like the masters they follow.
    """

    def __init__(self, config: EmaConfig, masters: list[Tensor]) -> None:
        self.config = config
        self._kept: dict[str, Callable[[int], float]] = {
            f"{decay:g}": _constant(decay, config) for decay in (config.decay, *config.extra_decays)
        }
        self._kept |= {name: _power(width, config) for name, width in config.widths.items()}
        self.averages = {name: [flat.detach().clone() for flat in masters] for name in self._kept}

    @torch.no_grad()
    def update(self, masters: list[Tensor], updates: int) -> None:
        """Follow the masters after the optimizer's update number `updates` (1, 2, ...)."""
        if updates % self.config.every:
            return
        sources = [flat.detach() for flat in masters]
        for name, averages in self.averages.items():
            torch._foreach_lerp_(averages, sources, 1.0 - self._kept[name](updates))

    def record(self, updates: int) -> dict[str, Any]:
        """Return what a reader of checkpoints must know of the averages after `updates` updates.

        ema: all names, the main one first.  ema_widths: the power averages' widths.  ema_updates: the update
        that they saw last, the time of their profiles.
        """
        seen = updates - updates % self.config.every
        return {"ema": list(self.averages), "ema_widths": self.config.widths, "ema_updates": seen}


def _constant(decay: float, config: EmaConfig) -> Callable[[int], float]:
    return lambda updates: remaining(decay, updates, config.every, config.warmup)


def _power(width: float, config: EmaConfig) -> Callable[[int], float]:
    gamma = power_ema.gamma_of_width(width)
    return lambda updates: power_ema.decay(gamma, updates, config.every)


def remaining(decay: float, updates: int, every: int, warmup: float) -> float:
    """Return the factor that the last `every` of `updates` updates leave on the average before them."""
    steps = range(updates - every + 1, updates + 1)
    return math.prod(min(decay, n / (n + warmup)) if warmup > 0 else decay for n in steps)
