"""Compare the ranks: which is slow and in which phase, memory, and the cost of saving."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from core.distributed.ranks import World
from core.metrics import hardware
from core.metrics.phases import MEASURED, PHASES, Phases
from core.metrics.tensor_activity import UNKNOWN
from core.progress import say

NUMBERS = (*MEASURED, "probe_s", "memory_gb", "allocation_retries", "tensor_active")
ALONE = ("data", "forward", "computing")  # in these a rank waits for no other, so they show who is late
ALONE_IF_MEETING = ("data", "computing")  # the same where ranks meet in a forward pass
Columns = dict[str, np.ndarray]  # of each of NUMBERS those of all ranks, (ranks,)
LATE = 0.1  # a rank is a straggler that makes the others wait for this share of the time


def rank_numbers(
    phases: Phases, world: World, probe_s: float = 0.0, tensor_active: float = UNKNOWN
) -> Tensor:
    """Return (ranks * NUMBERS,) float64 on the device, zero outside of this rank's part: the sum is a gather.

    probe_s: what `core.metrics.speed_probe` measured on this rank, 0 for nothing.  tensor_active: what
    `core.metrics.tensor_activity` did.
    """
    memory = [hardware.memory_gb(world.device), hardware.allocation_retries(world.device)]
    mine = [*phases.take(), probe_s, *memory, tensor_active]
    table = torch.zeros(world.size, len(NUMBERS), dtype=torch.float64)
    table[world.rank] = torch.tensor(mine, dtype=torch.float64)
    return table.view(-1).to(world.device)


def rank_report(numbers: list[float], alone: Sequence[str] = ALONE) -> dict[str, Any]:
    """Return the part of a metrics row about all ranks, from the sum of their `rank_numbers`.

    alone: phases in which a rank never waits for others. Forward is left out where ranks communicate in it,
    or a rank that waits there for a slow one would look slow too.  slowest, fastest: the ranks with the
    longest and shortest time in these, in seconds since the last report.  straggler: the slowest rank and its
    phase, where it holds the others up.
    """
    table = np.asarray(numbers, np.float64).reshape(-1, len(NUMBERS))
    ranks: Columns = dict(zip(NUMBERS, table.T.copy(), strict=True))
    _count_slow_devices(ranks)
    own = _sum_of(ranks, alone)
    slowest, fastest = int(own.argmax()), int(own.argmin())
    active = ranks["tensor_active"]
    activity = {} if (active == UNKNOWN).any() else {"tensor_active": float(active.mean())}
    return {
        "count": len(own),
        "slowest": {"rank": slowest, "seconds": float(own[slowest])},
        "fastest": {"rank": fastest, "seconds": float(own[fastest])},
        "straggler": _straggler(ranks, own, slowest, alone),
        "memory_gb": float(ranks["memory_gb"].max()),
        "allocation_retries": int(ranks["allocation_retries"].sum()),
        "save_stall_s": float(ranks["save"].max()),
        "validate_s": float(ranks["validate"].max()),
        "preview_s": float(ranks["preview"].max()),
        **activity,
    }


class Stragglers:
    """Warns of a rank that holds the others up, once until it does so no more.

    One report may be chance, and a month of them would bury all else: the second in a row is reported.
    """

    def __init__(self) -> None:
        self._late: tuple[int, str] | None = None
        self._is_told = False

    def note(self, report: dict[str, Any], step: int) -> None:
        """Take the report of the steps up to `step`, the next after the one noted before."""
        straggler = report["straggler"]
        late = (straggler["rank"], straggler["phase"]) if straggler else None
        if late is None or late != self._late:
            self._late, self._is_told = late, False
        elif not self._is_told:
            self._is_told = True
            say(
                f"warning: rank {straggler['rank']} holds the others up: {straggler['behind_s']:.1f} s "
                f"behind in {straggler['phase']}, in the steps up to {step}, and before"
            )


def _sum_of(ranks: Columns, phases: Sequence[str]) -> np.ndarray:
    """Return the seconds of all these phases, (ranks,)."""
    return sum((ranks[phase] for phase in phases), np.zeros(len(ranks["probe_s"])))


def _count_slow_devices(ranks: Columns) -> None:
    """Add to `computing` the part of the time that a GPU of the fastest rank's speed would have saved."""
    best = ranks["probe_s"].min()
    if best > 0:
        ranks["computing"] += (1 - best / ranks["probe_s"]) * _sum_of(ranks, PHASES)


def _straggler(ranks: Columns, own: np.ndarray, slowest: int, alone: Sequence[str]) -> dict[str, Any] | None:
    """Return the slowest rank, if it is behind the median of the others by LATE of the time or more."""

    def excess(seconds: np.ndarray) -> float:
        return float(seconds[slowest] - np.median(np.delete(seconds, slowest)))

    if len(own) < 2 or (behind := excess(own)) < LATE * _sum_of(ranks, PHASES)[slowest]:
        return None
    phase = max(alone, key=lambda phase: excess(ranks[phase]))
    return {"rank": slowest, "phase": phase, "behind_s": behind}
