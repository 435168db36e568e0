"""The list of samples set aside, `quarantine.jsonl`: which, at what stage, why, and how many may be."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from core.errors import WorkError
from core.progress import counted
from core.reading import json_files
from core.reading.json_files import Malformed
from core.records import append_shared, publish, read_from
from data.dataset.schema import QUARANTINE

BEYOND = 1000  # faults over the budget that a pass still looks for, so that all are reported at once
MOST_KINDS = 8  # kinds of faults in a message


@dataclass(frozen=True)
class QuarantineEntry:
    """One sample set aside: what it is (row number or source path), at which stage, and why (one line)."""

    id: int | str
    stage: str
    error: str


class BudgetError(WorkError):
    """More samples were set aside than the job may lose."""


class Quarantine:
    """The list of samples set aside (`quarantine.jsonl`), shared by all processes that append to it.

    total: samples the job handles.  budget: from 1 on a number of samples, below 1 a fraction of `total` (at
    least one sample of several, unless it is 0).  beyond: how many entries more than that `add` and `check`
    let pass; a job that gives it calls `require_within_budget` at the end of its pass.  field: of the job's
    config, which says the budget.  An entry is on disk when `add` returns, and is there once however often a
    continued job meets the sample again.
    """

    def __init__(
        self, path: Path, *, total: int, budget: float, beyond: int = 0, field: str = "quarantine_budget"
    ) -> None:
        self.path, self.total, self.beyond, self.field = path, total, beyond, field
        self.allowed = allowed_losses(budget, total)
        self._entries: dict[tuple[int | str, str], QuarantineEntry] = {}
        self._read_to = 0
        self._catch_up()

    @property
    def entries(self) -> list[QuarantineEntry]:
        """All entries, in the order they were appended."""
        return list(self._entries.values())

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, id: int | str, stage: str, error: object) -> QuarantineEntry:
        """Record a sample durably and return its entry; BudgetError when that exceeds the budget."""
        self._catch_up()
        entry = QuarantineEntry(id, stage, " ".join(str(error).split()))
        if (id, stage) not in self._entries:
            append_shared(self.path, asdict(entry))
        self.check()
        return entry

    def rewrite(self, entries: Sequence[QuarantineEntry]) -> None:
        """Publish exactly `entries`, in this order.

        The order of appending depends on which process was first.
        """
        if entries:
            publish(self.path, map(asdict, entries))
        else:
            self.path.unlink(missing_ok=True)
        self._entries, self._read_to = {}, 0
        self._catch_up()

    def check(self) -> None:
        """Raise BudgetError if more than `beyond` samples over the budget were set aside, by any process."""
        self._require_at_most(self.allowed + self.beyond)

    def require_within_budget(self) -> None:
        """Raise BudgetError if the budget is exceeded, with the number of faults of each kind."""
        self._require_at_most(self.allowed)

    def _require_at_most(self, count: int) -> None:
        self._catch_up()
        if len(self._entries) > count:
            last = self.entries[-1]
            raise BudgetError(
                f"{len(self._entries)} of {counted(self.total, 'sample')} were set aside, more than the "
                f"budget of {self.allowed}; the last: {last.id}: {last.stage}: {last.error}; by kind: "
                f"{kinds_of(self.entries)} (all of them: {self.path}); "
                f"{self.field}={len(self._entries)} goes on without them"
            )

    def _catch_up(self) -> None:
        """Read what this or another process appended since the last look."""
        rows, self._read_to = read_from(self.path, self._read_to)
        for row in rows:
            try:
                entry = json_files.checked(row, QuarantineEntry, self.path)
            except Malformed:
                continue  # written by a later version
            self._entries.setdefault((entry.id, entry.stage), entry)


def kinds_of(entries: Sequence[QuarantineEntry]) -> str:
    """Return how often each kind of fault was met, in words.

    Faults that differ in numbers alone are one kind.
    """
    counts, words = Counter[str](), dict[str, set[str]]()
    for entry in entries:
        kind = f"{entry.stage}: {_without_numbers(entry.error)}"
        counts[kind] += 1
        words.setdefault(kind, set()).add(f"{entry.stage}: {entry.error}")
    most = counts.most_common(MOST_KINDS)
    shown = [f"{count} x {kind if len(words[kind]) > 1 else next(iter(words[kind]))}" for kind, count in most]
    if rest := len(entries) - sum(count for _, count in most):
        shown.append(f"{rest} of {len(counts) - MOST_KINDS} other kinds")
    return ", ".join(shown)


def _without_numbers(reason: str) -> str:
    """Return the reason with N for each number but those in names of encodings and formats."""
    kept = r"(latin-1|cp1252|utf-\d+|jpeg 2000|mp4|h\.26\d|av1|vp[89]|3g[2p])"
    return re.sub(rf"{kept}|[0-9.]*[0-9]", lambda m: m[1] or "N", reason, flags=re.I)


def allowed_losses(budget: float, total: int) -> int:
    """Return how many of `total` samples may be set aside.

    A budget below 1 is a fraction, any other a number.

    A fraction above 0 allows one of several: one bad file in a small folder is no reason to stop.
    """
    if budget >= 1 or budget == 0 or total <= 1:
        return int(budget if budget >= 1 else 0)
    return max(1, int(budget * total))


def read_quarantine(folder: Path) -> list[QuarantineEntry]:
    """Read the entries of a dataset's `quarantine.jsonl`; an absent file is an empty list."""
    return Quarantine(folder / QUARANTINE, total=0, budget=0).entries
