"""Ranges of parameters in a rank's flat tensors, and where those of every other rank lie.

Each way of sharding cuts what ranks hold together into parts of one size. So a few numbers a parameter, a
`Cut`, say what any rank has of it, and no table of all ranks need be gathered: for 110 matrices on 4,096
ranks that was 30 MB for each of them to receive.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from core.distributed.ranks import Group


@dataclass(frozen=True)
class Replicas:
    """The ranks that hold the same part of the state: the number of that part, and the group of them."""

    part: int
    group: Group


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


@dataclass(frozen=True)
class Cut:
    """How the flattened parameter `name` is cut over ranks that share the tensors of number `flat`.

    Ranks cut a row of numbers into parts of `size`, in which the parameter begins at `first`; rank r has the
    r-th part of it.
    """

    name: str
    shape: tuple[int, ...]
    flat: int
    first: int
    size: int

    def pieces(self, start: int = 0, stop: int | None = None) -> Iterator[tuple[int, int, int]]:
        """Yield (rank, first, last) of every rank that has any of the elements [start, stop), in order.

        stop: None is the end.  first, last: of all that the rank has.
        """
        stop = math.prod(self.shape) if stop is None else stop
        if start < stop:
            for rank in range((self.first + start) // self.size, -(-(self.first + stop) // self.size)):
                yield rank, *self.piece(rank)

    def piece(self, rank: int) -> tuple[int, int]:
        """Return start and stop of a rank's elements; equal where it has none."""
        numbers, start = math.prod(self.shape), rank * self.size - self.first
        return min(max(start, 0), numbers), min(max(start + self.size, 0), numbers)


class Cutting:
    """How parameters are cut over the ranks of a replica, of which each holds all, and who writes what.

    cuts: in the order in which ranks have the parameters.  ranks: of one replica.  replicas: each writes an
    even part of what its ranks hold, as `share` says.
    """

    def __init__(self, cuts: Sequence[Cut], ranks: int, replicas: int = 1) -> None:
        self._by_name = {cut.name: cut for cut in cuts}
        self._ranks, self._replicas = ranks, replicas
        self._parts: dict[int, dict[str, Cut]] = {}

    def __contains__(self, name: object) -> bool:
        return name in self._by_name

    def pieces(self, name: str, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
        """Yield (rank, first, last) of what is written of the elements [start, stop) of a parameter.

        rank: of all, replica after replica.  first, last: of the whole piece that it writes.
        """
        for rank, first, last in self._by_name[name].pieces(start, stop):
            if self._replicas == 1:
                yield rank, first, last
                continue
            part = self._parts_of(rank)[name]
            for replica, low, high in part.pieces(max(start - first, 0), min(stop, last) - first):
                yield replica * self._ranks + rank, first + low, first + high

    def _parts_of(self, rank: int) -> dict[str, Cut]:
        """Return how replicas share what the rank of this number holds in each of them."""
        if rank not in self._parts:
            pieces = [(cut, *cut.piece(rank)) for cut in self._by_name.values()]
            held = [Shard(cut.name, cut.shape, a, b, cut.flat, 0) for cut, a, b in pieces if a < b]
            self._parts[rank] = {cut.name: cut for cut in share_cuts(held, self._replicas)}
        return self._parts[rank]


def require_cuts(cuts: Sequence[Cut], shards: Sequence[Shard], rank: int) -> None:
    """Raise RuntimeError unless `shards`, which this rank found that it holds, are what the cuts give it."""
    held = {shard.name: (shard.flat, shard.start, shard.stop) for shard in shards}
    for cut in cuts:
        start, stop = cut.piece(rank)
        expected = (cut.flat, start, stop) if start < stop else None
        if held.get(cut.name) != expected:
            raise RuntimeError(
                f"rank {rank} holds {held.get(cut.name)} (flat, start, stop) of {cut.name}, and by "
                f"arithmetic {expected}"
            )


def share(shards: list[Shard], rank: int, size: int) -> list[Shard]:
    """Return this rank's even part of shards that every rank holds in full, so that all write in parallel."""
    kept = []
    for shard, cut in zip(shards, share_cuts(shards, size), strict=True):
        first, last = cut.piece(rank)
        if first < last:
            start, offset = shard.start + first, shard.offset + first
            kept.append(replace(shard, start=start, stop=shard.start + last, offset=offset))
    return kept


def share_cuts(shards: Sequence[Shard], size: int) -> list[Cut]:
    """Return how `share` cuts each of the shards, which count from 0 in it, over `size` ranks."""
    ends = list(itertools.accumulate((s.stop - s.start for s in shards), initial=0))
    part = max(1, -(-ends[-1] // size))
    return [
        Cut(s.name, (s.stop - s.start,), s.flat, first, part) for s, first in zip(shards, ends, strict=False)
    ]
