"""Bytes that the state of training takes on a rank under FSDP2: arithmetic, as `state.py` is for ZeRO.

Source: torch 2.13's `fully_shard`, and `core/engine/fsdp2`. A test holds masters, moments and averages to the
bytes of real engines.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

from core.memory.state import FP32, NORM_ROW, ParameterGroup, TrainingState


@dataclass(frozen=True, kw_only=True)
class FsdpState(TrainingState):
    """The inputs that determine the size of the state; `ranks` share one copy of it.

    reduces_last: whether micro-steps add up in a whole fp32 gradient on every rank.
    """

    reduces_last: bool = False

    def _own(self, group: ParameterGroup) -> int:
        return sum(part for _, part in group.rows(self.ranks))

    def _weights(self) -> int:
        """Bytes of frozen rows, and of what is gathered; the rows of the others are the masters."""
        return -(-self.fixed // self.ranks) * self._computed + self._gathered()

    def _gathered(self) -> int:
        """Bytes of whole weights during passes: all of stage 2, of stage 3 two blocks and what is in none.

        What was received of one more lies beside them until it is copied out.
        """
        outside, blocks = self._units()
        largest = max(blocks, default=outside)
        held = outside + (sum(blocks) if self.zero_stage == 2 else 2 * largest if blocks else 0)
        received = largest if self.ranks > 1 else 0
        return (held + received) * self._computed

    def _gradients(self) -> int:
        """Bytes of the rows of gradients, and of whole ones where ranks add them up at the end alone."""
        return FP32 * (self.own + (self.numbers if self.reduces_last else 0))

    def _traffic(self) -> int:
        """Bytes of two blocks' gradients: one is reduced, the other made; and of the rows that come of it."""
        outside, blocks = self._units()
        largest = max([outside, *blocks])
        sent, rows = 2 * largest * FP32, -(-largest // self.ranks) * FP32
        return sent + rows + largest * self._computed

    def _update(self) -> int:
        """Bytes of gradients and of what the update takes beside them."""
        norm = 2 * FP32 * self.own // NORM_ROW
        return FP32 * self.own + max(norm, *(self._muon(group) for group in self.groups))

    def _units(self) -> tuple[int, list[int]]:
        """Numbers outside of blocks, and of each block."""
        sizes: Counter[str] = Counter()
        for group in self.groups:
            for shape, block in zip(group.shapes, group.blocks or [""] * len(group.shapes), strict=True):
                sizes[block] += math.prod(shape)
        outside = sizes.pop("", 0)
        return outside, list(sizes.values())
