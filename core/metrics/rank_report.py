"""Compare the ranks: which is slow and in which phase, memory, and the cost of saving.

A few reductions of a dozen numbers, in any world: no rank receives those of all.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from typing import Any, Literal

import torch

from core.distributed import ranks
from core.distributed.ranks import World
from core.metrics import hardware
from core.metrics.phases import MEASURED, PHASES, Phases
from core.metrics.tensor_activity import UNKNOWN
from core.progress import say

NUMBERS = (*MEASURED, "probe_s", "memory_gb", "allocation_retries", "tensor_active")
ALONE = ("data", "forward", "computing")  # in these a rank waits for no other, so they show who is late
ALONE_IF_MEETING = ("data", "computing")  # the same where ranks meet in a forward pass
Numbers = Mapping[str, float]  # NUMBERS of a rank
LATE = 0.1  # a rank is a straggler that makes the others wait for this share of the time

Reduced = tuple[Literal["max", "sum"], list[float]]
"""Numbers of a rank, and how they are reduced over all."""

_GREATEST = ("memory_gb", "save", "validate", "preview")  # of which the report has those of the worst rank


def rank_numbers(
    phases: Phases, world: World, probe_s: float = 0.0, tensor_active: float = UNKNOWN
) -> Numbers:
    """Return NUMBERS of this rank since the last call.

    probe_s: what `core.metrics.speed_probe` measured on this rank, 0 for nothing.  tensor_active: what
    `core.metrics.tensor_activity` did.
    """
    memory = [hardware.memory_gb(world.device), hardware.allocation_retries(world.device)]
    return dict(zip(NUMBERS, [*phases.take(), probe_s, *memory, tensor_active], strict=True))


def rank_report(mine: Numbers, world: World, alone: Sequence[str] = ALONE) -> dict[str, Any]:
    """Return the part of a metrics row about all ranks, from the numbers of each (collective: all ranks).

    alone: phases in which a rank never waits for others. Forward is left out where ranks communicate in it,
    or a rank that waits there for a slow one would look slow too.
    """
    comparison = compared(mine, world.rank, world.size, alone)
    asked = next(comparison)
    while True:
        kind, numbers = asked
        tensor = torch.tensor(numbers, dtype=torch.float64)
        over_ranks = ranks.max_over_ranks(tensor) if kind == "max" else ranks.sum_over_ranks(tensor)
        try:
            asked = comparison.send(over_ranks.tolist())
        except StopIteration as report:
            return dict(report.value)


def compared(
    mine: Numbers, rank: int, count: int, alone: Sequence[str]
) -> Generator[Reduced, list[float], dict[str, Any]]:
    """Yield what is to be reduced over `count` ranks and take the result, again and again; return the report.

    slowest, fastest: the ranks with the longest and shortest time in the phases `alone`, in seconds since the
    last report.  straggler: the slowest rank and its phase, where it holds the others up.
    """
    best, least_active, *greatest = yield (
        "max",
        [-mine["probe_s"], -mine["tensor_active"], *(mine[name] for name in _GREATEST)],
    )
    numbers = {**mine, "computing": mine["computing"] + _lost_to_a_slow_device(mine, -best)}
    parts = [sum(numbers[phase] for phase in alone), *(numbers[phase] for phase in alone)]
    longest, shortest = yield "max", [parts[0], -parts[0]]
    first = yield (
        "max",
        [-rank if parts[0] == longest else -count, -rank if -parts[0] == shortest else -count],
    )
    slowest, fastest = (int(-number) for number in first)
    whole = sum(numbers[phase] for phase in PHASES)
    of_slowest = [*parts, whole] if rank == slowest else [0.0] * (len(parts) + 1)
    retries, active, *sums = yield (
        "sum",
        [numbers["allocation_retries"], numbers["tensor_active"], *parts, *of_slowest],
    )
    return {
        "count": count,
        "slowest": {"rank": slowest, "seconds": longest},
        "fastest": {"rank": fastest, "seconds": -shortest},
        "straggler": _straggler(sums, slowest, count, alone),
        "memory_gb": greatest[0],
        "allocation_retries": int(retries),
        **dict(zip(("save_stall_s", "validate_s", "preview_s"), greatest[1:], strict=True)),
        **({} if -least_active == UNKNOWN else {"tensor_active": active / count}),
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


def _lost_to_a_slow_device(numbers: Numbers, best_s: float) -> float:
    """Return the part of a rank's time that a GPU of the fastest rank's speed would have saved."""
    if best_s <= 0:
        return 0.0
    return (1 - best_s / numbers["probe_s"]) * sum(numbers[phase] for phase in PHASES)


def _straggler(
    sums: Sequence[float], slowest: int, count: int, alone: Sequence[str]
) -> dict[str, Any] | None:
    """Return the slowest rank, if it is behind the mean of the others by LATE of the time or more.

    sums: of all ranks, of their own time and of each phase; then the same of the slowest rank, and its time.
    """
    of_all, of_slowest, whole = sums[: 1 + len(alone)], sums[1 + len(alone) : -1], sums[-1]
    if count < 2:
        return None
    behind, *by_phase = (
        one - (total - one) / (count - 1) for total, one in zip(of_all, of_slowest, strict=True)
    )
    if behind < LATE * whole:
        return None
    phase = max(zip(by_phase, alone, strict=True), key=lambda found: found[0])[1]
    return {"rank": slowest, "phase": phase, "behind_s": behind}
