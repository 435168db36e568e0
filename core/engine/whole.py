"""Whole tensors from the ranges that ranks hold, on rank 0."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from core.distributed import ranks
from core.distributed.ranks import World
from core.engine.shards import Shard, present


def send_whole(weights: list[Tensor], owned: list[Shard], world: World) -> dict[str, Tensor]:
    """Return whole parameters on the CPU, from every rank's part of them (collective: all ranks).

    weights: laid out like the masters.  owned: this rank's part; over all ranks, every element once.
    The dict is filled on rank 0 and empty elsewhere.
    """
    full: dict[str, Tensor] = {}
    tables = ranks.gather_objects((owned, [f.numel() for f in weights]))
    for rank, (shards, sizes) in enumerate(tables):
        parts = _send_to_first(weights, sizes, rank, world)
        for shard in present(shards, parts) if world.rank == 0 else []:
            whole = full.setdefault(shard.name, torch.empty(shard.shape))
            whole.view(-1)[shard.start : shard.stop] = shard.view(parts).cpu()
    return full


def _send_to_first(weights: list[Tensor], sizes: list[int], rank: int, world: World) -> list[Tensor]:
    """Send the tensors of `rank` to rank 0, which returns them."""
    if rank == 0 or world.rank not in (0, rank):
        return weights
    if world.rank == rank:
        for flat in filter(Tensor.numel, weights):
            dist.send(flat.detach().contiguous(), dst=0)
        return weights
    parts = [torch.empty(size, device=world.device) for size in sizes]
    for part in filter(Tensor.numel, parts):
        dist.recv(part, src=rank)
    return parts
