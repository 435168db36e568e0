"""The interface of a kind of measurement, and the table that most of them print."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from core.queue.config import QueueConfig
from tools.runs import rulers
from tools.runs import score_names as names
from tools.runs.samples import Samples


class Measuring(ABC):
    """A measurement that was opened.

    of: hashes of what is measured, and of what it is compared with, for scores.json.  samples: those scored.
    """

    of: dict[str, Any]
    samples: Sequence[Samples] = ()

    @abstractmethod
    def work(self, output: Path, queue: QueueConfig, publish: Callable[[dict[str, Any]], None]) -> None:
        """Take part in measuring; one worker hands the content of scores.json to `publish`.

        Pictures and rows go to `output`.
        """

    def table(self, scores: Mapping[str, Any]) -> str:
        """Lay the scores out for a terminal."""
        return table(scores)


def table(scores: Mapping[str, Any]) -> str:
    """Lay the scores out for a terminal, each beside the one of held-out real data where there is one."""
    width = max([18, *(len(name) + 2 for name in scores if names.is_interval(name))])
    lines = [f"{'score':{width}}{'generated':>12}{'real':>12}"]
    for name, value in scores.items():
        if names.is_of_real(name) or not isinstance(value, int | float):
            continue
        if isinstance(value, bool):
            continue
        real = scores.get(names.real(name))
        lines.append(f"{name:{width}}{_number(value):>12}{_number(real):>12}".rstrip())
    if not scores.get("heldout_unseen", True):
        lines.append("the real images compared with were also seen by the generator: no heldout= was given")
    if warning := scores.get(rulers.WARNING):
        lines.append(str(warning))
    return "\n".join(lines)


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return str(value) if isinstance(value, int) else f"{value:.4f}"
