"""Decide whether training fits a rank's memory, with how many samples at once, and with which ZeRO stage.

One judgement for `engine.micro_batch=auto`, `engine.zero_stage=auto` and the plan of a run that is not
queued yet. Imports nothing heavy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from core.memory.micro_batch import Measured, choose
from core.memory.state import TrainingState


@dataclass(frozen=True)
class Fit:
    """The memory that training takes on a rank, in bytes.

    parts: of the state of training.  micro_batches: the most samples of each shape at once.  activations: of
    the shape that takes most.  update: what an update takes in their place.
    """

    parts: Mapping[str, int]
    micro_batches: Sequence[int]
    activations: int
    update: int
    fits: bool

    @property
    def bytes(self) -> int:
        """Total bytes on the rank."""
        return sum(self.parts.values()) + max(self.activations, self.update)


def fit(
    state: TrainingState,
    usable: int | None,
    shares: Sequence[int],
    measured: Sequence[Measured],
    *,
    micro_batch: int | Literal["auto"],
    more: Mapping[str, int] | None = None,
) -> Fit:
    """Return what training takes with the largest micro-batches that fit, or with those that are asked for.

    usable: bytes to plan with; None is no limit.  shares: samples of each shape that a rank takes of a group.
    measured: their activations.  micro_batch: as configured; 0 is a rank's whole share.  more: parts beside
    the state.
    """
    parts = {**state.parts(), **(more or {})}
    room = 1 << 62 if usable is None else usable - sum(parts.values())
    if micro_batch == "auto":
        sizes = [choose(share, each, room) for share, each in zip(shares, measured, strict=True)]
    else:
        sizes = [min(micro_batch or share, share) for share in shares]
    most = max(each.bytes(size) for each, size in zip(measured, sizes, strict=True))
    update = state.update_excess()
    return Fit(parts, sizes, most, update, max(most, update) <= room)


class Fitting(Protocol):
    """A ZeRO stage with the memory that it takes."""

    @property
    def bytes(self) -> int: ...
    @property
    def fits(self) -> bool: ...


def least_stage(ranks: int, found: Mapping[int, Fitting]) -> int:
    """Return the stage that `auto` stands for: the first of one rank, which has nothing to share out.

    Of more ranks it is the least that fits, since higher ones send more; where none fits, the one that takes
    least.
    """
    if ranks == 1:
        return min(found)
    fitting = [stage for stage, each in found.items() if each.fits]
    return min(fitting) if fitting else min(found, key=lambda stage: found[stage].bytes)
