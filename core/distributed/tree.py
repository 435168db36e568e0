"""Exchange objects along a tree of ranks, in which each communicates with at most three others.

The tree is binary and in the order of ranks: rank `odd * 2^k` stands between those that are 2^(k-1) below and
above it, and rank 0 above the highest. So the number of peers of a rank does not grow with the world, a
rank's subtree is a range of neighbours, most of which share a node, and an exchange takes 2 log2(ranks) hops.
Gloo's own barrier and broadcast connect a rank with log2(ranks) others each way, its gather the first one
with all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

NEVER = timedelta(days=3650)
_TAG = 0x7EE  # of messages, apart from those that others send over the group


class Links(NamedTuple):
    """The peers of a rank. parent: None of rank 0.  below, above: children, of lower and higher
    rank, one at most of each.
    """

    parent: int | None
    below: tuple[int, ...]
    above: tuple[int, ...]


def links(rank: int, size: int) -> Links:
    """Return the place of a rank of `size` in the tree."""
    if rank == 0:
        return Links(None, (), (1 << (size - 1).bit_length() - 1,) if size > 1 else ())
    half = (rank & -rank) >> 1
    below = (rank - half,) if half else ()
    while half and rank + half >= size:
        half >>= 1
    above = (rank + half,) if half else ()
    parent, bit = rank, rank & -rank
    while bit < size:
        parent, bit = parent & ~bit | bit << 1, bit << 1
        if parent < size:
            return Links(parent, below, above)
    return Links(0, below, above)


def exchange(value: Any, combine: Callable[[Sequence[Any]], Any], group: Any, *, to_all: bool = True) -> Any:
    """Combine every rank's `value` on the way to rank 0, and return the outcome (collective: the group).

    combine: of values, or outcomes, of neighbouring ranks in their order, one at least.  group: of all ranks,
    on CPUs, used by no other thread.  to_all: whether all get the outcome, or rank 0 alone and the others
    None; none returns before all have come.
    No time-out; what the backend raises where a rank that this one talks with has gone.
    """
    rank, size = dist.get_rank(), dist.get_world_size()
    parent, below, above = links(rank, size)
    lower = [_object(_receive(child, group)) for child in below]
    upper = [_object(_receive(child, group)) for child in above]
    outcome = combine([*lower, value, *upper])
    if parent is not None:
        _send(_bytes(outcome), parent, group)
        answer = _receive(parent, group)
        outcome = _object(answer)
    else:
        answer = _bytes(outcome if to_all else None)
    for child in (*below, *above):
        _send(answer, child, group)
    return outcome


def _bytes(value: Any) -> Tensor:
    """Return the bytes in which torch sends an object, (n,) uint8; none for None."""
    from torch.distributed.distributed_c10d import _object_to_tensor

    return torch.empty(0, dtype=torch.uint8) if value is None else _object_to_tensor(value, _CPU, None)[0]


def _object(data: Tensor) -> Any:
    from torch.distributed.distributed_c10d import _tensor_to_object

    return _tensor_to_object(data, len(data), None) if len(data) else None


_CPU = torch.device("cpu")


def _send(data: Tensor, rank: int, group: Any) -> None:
    for message in (torch.tensor([len(data)]), data)[: 1 + (len(data) > 0)]:
        _wait(dist.isend(message, rank, group, _TAG))


def _receive(rank: int, group: Any) -> Tensor:
    length = torch.zeros(1, dtype=torch.int64)
    _wait(dist.irecv(length, rank, group, _TAG))
    data = torch.empty(int(length), dtype=torch.uint8)
    if len(data):
        _wait(dist.irecv(data, rank, group, _TAG))
    return data


def _wait(work: dist.Work | None) -> None:
    if work is not None:
        work.wait(NEVER)
