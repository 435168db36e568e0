"""Compare the ranks: which is slow and in which phase, memory, and the cost of saving."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from core.distributed.ranks import World
from core.metrics import hardware
from core.metrics.phases import MEASURED, PHASES, Phases
from core.progress import say

NUMBERS = (*MEASURED, "probe_s", "memory_gb", "allocation_retries")
ALONE = ("data", "forward", "computing")  # in these a rank waits for no other, so they show who is late
ALONE_IF_MEETING = ("data", "computing")  # the same where ranks meet in a forward pass
LATE = 0.1  # a rank is a straggler that makes the others wait for this share of the time


def rank_numbers(phases: Phases, world: World, probe_s: float = 0.0) -> Tensor:
    """Return (ranks * NUMBERS,) float64 on the device, zero outside of this rank's part: the sum is a gather.

    probe_s: what `core.metrics.speed_probe` measured on this rank, 0 for nothing.
    """
    memory = [hardware.memory_gb(world.device), hardware.allocation_retries(world.device)]
    mine = [*phases.take(), probe_s, *memory]
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
    width = len(NUMBERS)
    ranks = [dict(zip(NUMBERS, numbers[i : i + width], strict=True)) for i in range(0, len(numbers), width)]
    _count_slow_devices(ranks)
    own = [sum(rank[phase] for phase in alone) for rank in ranks]
    slowest, fastest = (choose(range(len(ranks)), key=own.__getitem__) for choose in (max, min))
    return {
        "count": len(ranks),
        "slowest": {"rank": slowest, "seconds": own[slowest]},
        "fastest": {"rank": fastest, "seconds": own[fastest]},
        "straggler": _straggler(ranks, own, slowest, alone),
        "memory_gb": max(rank["memory_gb"] for rank in ranks),
        "allocation_retries": int(sum(rank["allocation_retries"] for rank in ranks)),
        "save_stall_s": max(rank["save"] for rank in ranks),
        "validate_s": max(rank["validate"] for rank in ranks),
        "preview_s": max(rank["preview"] for rank in ranks),
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


def _count_slow_devices(ranks: list[dict[str, float]]) -> None:
    """Add to `computing` the part of the time that a GPU of the fastest rank's speed would have saved."""
    best = min(rank["probe_s"] for rank in ranks)
    if best > 0:
        for rank in ranks:
            rank["computing"] += (1 - best / rank["probe_s"]) * sum(rank[phase] for phase in PHASES)


def _straggler(
    ranks: list[dict[str, float]], own: list[float], slowest: int, alone: Sequence[str]
) -> dict[str, Any] | None:
    """Return the slowest rank, if it is behind the median of the others by LATE of the time or more."""
    if len(ranks) < 2:
        return None
    others = [seconds for rank, seconds in enumerate(own) if rank != slowest]
    behind = own[slowest] - statistics.median(others)
    if behind < LATE * sum(ranks[slowest][phase] for phase in PHASES):
        return None

    def excess(phase: str) -> float:
        return ranks[slowest][phase] - statistics.median(
            rank[phase] for number, rank in enumerate(ranks) if number != slowest
        )

    return {"rank": slowest, "phase": max(alone, key=excess), "behind_s": behind}
