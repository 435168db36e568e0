"""The contents of a folder, whatever its kind: readers fill them in, sections show them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.records import Row
from tools.sweep.results_page import Results

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Picture:
    """A picture or video to show. kind: its media type.  note: what it is of."""

    name: str
    kind: str
    data: bytes
    note: str = ""


@dataclass(frozen=True)
class Scores:
    """Scores by name, and what they are of."""

    values: Mapping[str, Any]
    identity: Mapping[str, str]


@dataclass(frozen=True)
class History:
    """The record of a run. All arrays have an element a row.

    step, seen, hours: steps, samples and hours of steps done.  rows: whole rows, spread over the record where
    it is long, and `at` their numbers.  starts: (row, attempt).  ranks: (step, number of ranks) from where it
    is so.  checkpoints: (step, name) of those that are kept.  validation,
    evaluations, incidents: rows of these records.
    """

    step: Floats
    seen: Floats
    hours: Floats
    seconds: Floats
    samples: Floats
    loss: Floats
    grad_norm: Floats
    rows: list[Row]
    at: NDArray[np.int64]
    starts: list[tuple[int, str]]
    ranks: list[tuple[int, int]]
    checkpoints: list[tuple[int, str]]
    validation: list[Row]
    evaluations: list[Row]
    incidents: list[Row]

    @property
    def is_thinned(self) -> bool:
        """Return whether `rows` are fewer than all."""
        return len(self.rows) < len(self.step)


@dataclass
class Output:
    """A folder of a job.

    name: short, and unlike those of the others on the page.  facts: for the table at the top.  troubles: what
    is missing or damaged, a line each.  running: whether more may come.  lines: a summary as text.
    sweep: what has become of a sweep's runs.
    """

    name: str
    folder: Path
    kind: str
    state: str = ""
    facts: dict[str, str] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    command: str = ""
    troubles: list[str] = field(default_factory=list)
    history: History | None = None
    pictures: list[Picture] = field(default_factory=list)
    scores: list[Scores] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    running: bool = False
    sweep: Results | None = None
