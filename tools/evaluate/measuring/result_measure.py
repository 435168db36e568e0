"""Scores that another package has given samples, put on record."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.config.sections import section
from core.errors import UserError
from core.queue.config import QueueConfig
from tools.evaluate import scored
from tools.evaluate.measuring.measuring import Measuring
from tools.evaluate.packages import imported
from tools.runs.samples import find_samples, require_one_origin


@dataclass(frozen=True)
class Settings:
    """Settings of `evaluate` by the same names."""

    source: str
    imported: str
    package: str


def lines(asked: Settings) -> list[str]:
    """Say what would be recorded."""
    require_one_origin(find_samples(Path(asked.source)))
    scores = len(imported.read(Path(asked.imported)))
    return [f"{scores} scores of {asked.imported}, by {asked.package}"]


class OfResult(Measuring):
    """Samples, and the file of a result."""

    def __init__(self, asked: Settings) -> None:
        self._asked, self.samples = asked, find_samples(Path(asked.source))
        if len(self.samples) > 1:
            raise UserError("source", asked.source, "one folder of samples, with imported")
        imported.read(Path(asked.imported))
        self.of = scored.describe(Path(asked.source), self.samples, {})
        self.of |= scored.hashes_of_weights({"imported": asked.imported})

    def work(self, output: Path, queue: QueueConfig, publish: Callable[[dict[str, Any]], None]) -> None:
        """Put the scores of the result on record."""
        publish(imported.scores_of(self.samples[0], section(imported.Import, self._asked), self.of))
