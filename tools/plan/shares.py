"""Calculate what each rank of a run holds: a pure function of the run and the rank."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from core.memory.state import ParameterGroup
from tools.plan.step_samples import Workload


class RankShare(NamedTuple):
    """One rank's share.

    numbers: of the fp32 masters that it updates, without padding; at stage 0 all.  samples: which of a group
    of each bucket, first and behind the last.  token_part: which of `degree` parts of each sample's tokens.
    """

    rank: int
    numbers: int
    samples: Sequence[tuple[int, int]]
    token_part: int


def numbers_of_ranks(
    groups: Sequence[ParameterGroup], zero_stage: int, ranks: int, copy: int = 0
) -> np.ndarray:
    """Return how many numbers each rank updates, (ranks,) int64, as DeepSpeed 0.19 cuts them.

    copy: under FSDP2, which cuts by rows, how many ranks share one copy; 0 is DeepSpeed. The last ranks have
    less, or padding alone.
    """
    if copy:
        rows = [piece for group in groups for piece in group.rows(copy)]
        return np.tile(_cut(rows, copy), ranks // copy)
    if zero_stage == 0:
        return np.full(ranks, sum(group.numbers for group in groups), np.int64)
    pieces = [piece for group in groups for piece in group.pieces(zero_stage, ranks)]
    return _cut(pieces, ranks)


def _cut(pieces: Sequence[tuple[int, int]], ranks: int) -> np.ndarray:
    rank = np.arange(ranks, dtype=np.int64)
    return sum((np.clip(total - rank * part, 0, part) for total, part in pieces), np.zeros(ranks, np.int64))


def shares_of_ranks(
    groups: Sequence[ParameterGroup],
    zero_stage: int,
    degree: int,
    ranks: int,
    workload: Workload,
    copy: int = 0,
) -> list[RankShare]:
    """Return every rank's share.

    degree: neighbouring ranks that share the tokens of a sample.  copy: as `numbers_of_ranks` takes it.
    """
    numbers = numbers_of_ranks(groups, zero_stage, ranks, copy)
    found = []
    for rank in range(ranks):
        sizes = [bucket.group * degree // ranks for bucket in workload.buckets]
        samples = [(rank // degree * size, (rank // degree + 1) * size) for size in sizes]
        found.append(RankShare(rank, int(numbers[rank]), samples, rank % degree))
    return found


def lines_of_shares(shares: Sequence[dict[str, Any]], buckets: Sequence[dict[str, Any]]) -> list[str]:
    """Say what the ranks have that have least and most, and what one in the middle has."""
    least, most = (choose(shares, key=lambda share: share["numbers"]) for choose in (min, max))
    one = shares[len(shares) // 2]
    samples = ", ".join(
        f"samples {first} to {stop - 1} of a group of {bucket['name']}"
        for (first, stop), bucket in zip(one["samples"], buckets, strict=True)
    )
    part = f", part {one['token_part']} of their tokens" if any(s["token_part"] for s in shares) else ""
    numbers = f"{least['numbers']:,}"
    if most["numbers"] > least["numbers"]:
        numbers += f" (rank {least['rank']}) to {most['numbers']:,} (rank {most['rank']})"
    return [
        f"ranks: {numbers} parameters each to update",
        f"rank {one['rank']}, for one: {one['numbers']:,} parameters, {samples}{part}",
    ]
