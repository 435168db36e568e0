"""The ZeRO stage that `engine.zero_stage=auto` chose, as a run keeps it: its bits depend on it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from core.errors import WorkError
from core.files import write_json
from core.reading import json_files
from core.run.folder import ZERO_STAGE


class _Kept(TypedDict):
    ranks: int
    zero_stage: int


@dataclass(frozen=True)
class ChosenStage:
    """stage: what was chosen.  ranks: for how many."""

    stage: int
    ranks: int

    def write(self, run: Path) -> None:
        """Write it into the run's folder."""
        write_json(run / ZERO_STAGE, {"ranks": self.ranks, "zero_stage": self.stage})

    @classmethod
    def read(cls, run: Path) -> ChosenStage | None:
        """Return what the run's folder holds; None where nothing was chosen yet.

        WorkError where it cannot be understood, since another choice would change the run's bits.
        """
        path = run / ZERO_STAGE
        if not path.exists():
            return None
        kept = json_files.read(path, _Kept)
        if not 0 <= kept["zero_stage"] <= 3 or kept["ranks"] < 1:
            raise WorkError(f"{path}: no ZeRO stage of so many ranks; remove the file to choose anew")
        return cls(kept["zero_stage"], kept["ranks"])
