"""What became of work on all ranks, told without a table of all of them on each."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist

from core.distributed import waiting
from core.distributed.ranks import Group, is_first


def gather_to_first(value: Any, group: Group = None) -> list[Any]:
    """Return every rank's small, plain `value` in rank order on rank 0, [] on the others (collective)."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return [value]
    waiting.meet(group)
    values: list[Any] = [None] * dist.get_world_size() if is_first() else []
    dist.gather_object(value, values or None, dst=0, group=group)
    return values


def first_problem(text: str, group: Group = None) -> tuple[int, str] | None:
    """Return the first rank whose `text` is not empty, with it; None where all are (collective: all ranks).

    A rank sends a number, and that rank alone its text.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return (0, text) if text else None
    waiting.meet(group)
    size = dist.get_world_size()
    device = "cuda" if dist.get_backend(group) == "nccl" else "cpu"
    first = torch.tensor([dist.get_rank() if text else size], device=device)
    dist.all_reduce(first, op=dist.ReduceOp.MIN, group=group)
    rank = int(first.item())
    if rank == size:
        return None
    box = [text]
    dist.broadcast_object_list(box, src=rank, group=group)
    return rank, box[0]
