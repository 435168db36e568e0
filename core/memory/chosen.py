"""The record of a run's micro-batches, on which its bits depend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from core.errors import WorkError
from core.files import write_json
from core.progress import counted
from core.reading import json_files
from core.run.folder import MICRO_BATCHES

Sizes = Mapping[str, Sequence[tuple[str, int]]]
"""Of each plan (`train`, `validation`): each shape and the most samples of it that a rank takes at once."""


class _Kept(TypedDict):
    ranks: int
    sizes: dict[str, list[tuple[str, int]]]


@dataclass(frozen=True)
class Chosen:
    """The micro-batches of a run.  ranks: those that share a group.  sizes: what was chosen for them."""

    ranks: int
    sizes: Sizes

    def write(self, run: Path) -> None:
        """Write it into the run's folder."""
        plain = {name: [list(pair) for pair in pairs] for name, pairs in self.sizes.items()}
        write_json(run / MICRO_BATCHES, {"ranks": self.ranks, "sizes": plain})

    @classmethod
    def read(cls, run: Path) -> Chosen | None:
        """Return what the run's folder holds; None where nothing was chosen yet.

        WorkError where it cannot be understood, since another choice would change the run's bits.
        """
        path = run / MICRO_BATCHES
        if not path.exists():
            return None
        kept = json_files.read(path, _Kept)
        if any(size < 1 for pairs in kept["sizes"].values() for _, size in pairs):
            raise WorkError(f"{path}: a micro-batch of less than 1 sample; remove the file to choose again")
        return cls(kept["ranks"], kept["sizes"])

    def reason_to_choose_anew(self, ranks: int, shapes: Mapping[str, Sequence[str]]) -> str:
        """Say why it cannot be taken by so many ranks for these shapes of each plan; '' where it can."""
        if self.ranks != ranks:
            return f"chosen for {counted(self.ranks, 'rank')}, and there are {ranks}"
        for name, wanted in shapes.items():
            if [shape for shape, _ in self.sizes.get(name, ())] != list(wanted):
                return f"chosen for other shapes than those of {name}"
        return ""
