"""Ranges of parameters in a rank's flat tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor


@dataclass(frozen=True)
class Shard:
    """Elements [start, stop) of the flattened parameter `name` lie in tensors[flat] from `offset` on."""

    name: str
    shape: tuple[int, ...]
    start: int
    stop: int
    flat: int
    offset: int

    def view(self, tensors: Sequence[Tensor]) -> Tensor:
        """Return the range itself, 1-D, from a list of tensors laid out like the masters."""
        return tensors[self.flat].detach()[self.offset : self.offset + self.stop - self.start]


def present(shards: Sequence[Shard], tensors: Sequence[Tensor]) -> list[Shard]:
    """Return the shards that `tensors` holds anything of: some moments exist for some parameters only."""
    return [shard for shard in shards if tensors[shard.flat].numel()]


def share(shards: list[Shard], rank: int, size: int) -> list[Shard]:
    """Return this rank's even part of shards that every rank holds in full, so that all write in parallel."""
    total = sum(s.stop - s.start for s in shards)
    low, high = rank * total // size, (rank + 1) * total // size
    kept, position = [], 0
    for s in shards:
        count = s.stop - s.start
        first, last = max(low - position, 0), min(high - position, count)
        if first < last:
            kept.append(replace(s, start=s.start + first, stop=s.start + last, offset=s.offset + first))
        position += count
    return kept
