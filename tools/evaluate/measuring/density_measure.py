"""Likelihood, or its bound, of the latents of a cache under a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.queue.config import QueueConfig
from tools.evaluate.config import DensityConfig
from tools.evaluate.density import density_units, of_cache, summary
from tools.evaluate.density.density_units import DensityUnits
from tools.evaluate.measuring.measuring import Measuring


@dataclass(frozen=True)
class Settings:
    """Settings of `evaluate` by the same names.  measure: "likelihood" or "bound"."""

    measure: str
    source: str
    real: str
    density: DensityConfig
    device: str
    seed: int
    threads: int


def lines(asked: Settings) -> list[str]:
    """Say of how many samples, under which weights."""
    found = of_cache.opened(asked.source, asked.real, asked.density, "cpu")
    count, exact = len(of_cache.choose(found.cache, asked.density.count, asked.seed)), found.trained
    named = f"{exact.weights} weights of {exact.checkpoint}"
    return [f"{asked.measure} of {count} samples of {asked.real}, under the {named}"]


class OfCache(Measuring):
    """A run and a cache."""

    def __init__(self, asked: Settings) -> None:
        self._asked = asked
        self._opened = of_cache.opened(asked.source, asked.real, asked.density, asked.device)
        self.of = dict(self._opened.of)

    def work(self, output: Path, queue: QueueConfig, publish: Callable[[dict[str, Any]], None]) -> None:
        """Measure what is missing, with other workers, a row a sample."""
        asked = self._asked
        units = DensityUnits(self._opened, asked.measure, output, asked.seed, publish)
        density_units.share(units, queue, asked.threads)

    def table(self, scores: Mapping[str, Any]) -> str:
        """Lay the densities out."""
        return summary.table(scores, self._asked.measure)
