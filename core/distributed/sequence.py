"""Sequence parallelism by all-to-all over the heads (DeepSpeed-Ulysses, arXiv:2309.14509).

The ranks of one sequence group hold the same samples and make the same draws, and each computes a share of
the tokens. Only attention needs all tokens: before it, ranks trade so that each holds all tokens of a share
of the heads; after it they trade back. To ZeRO the whole world stays data-parallel: it averages gradients
over all ranks, so `gather_tokens` scales the gradient by the group's size, which makes the average over the
world the average over samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from core.distributed import ranks
from core.distributed.ranks import World
from core.errors import UserError


@dataclass(frozen=True)
class SequenceGroup:
    """The ranks that share the tokens of a sample: this one is `rank` of `size`.

    name: torch's own of the group, for operations that take no objects (`named_group`).
    """

    rank: int
    size: int
    group: Any
    name: str = ""

    def share(self, tokens: int) -> int:
        """Return how many of `tokens` tokens each rank holds; the last ranks' may be padding."""
        return -(-tokens // self.size)

    def valid(self, tokens: int, rank: int) -> int:
        """Return how many tokens of `rank`'s share are not padding."""
        share = self.share(tokens)
        return min(max(tokens - rank * share, 0), share)


_made: dict[str, SequenceGroup] = {}


def data_world(world: World, size: int) -> World:
    """Return the world as loaders see it, in which a group of `size` neighbouring ranks is one rank."""
    if world.size % size:
        raise UserError("sequence_parallel", size, f"a divisor of the number of ranks, {world.size}")
    return replace(world, rank=world.rank // size, size=world.size // size)


def make_sequence_group(world: World, size: int) -> SequenceGroup | None:
    """Make this rank's group of `size` neighbouring ranks, None for size 1 (collective: all ranks)."""
    if size == 1:
        return None
    ranks.barrier()
    group = _own_group(world, size)
    made = SequenceGroup(world.rank % size, size, group, group.group_name)
    _made[made.name] = made
    return made


def _own_group(world: World, size: int) -> dist.ProcessGroup:
    """Make this rank's group: NCCL splits all ranks at once, and by gloo a group's own ranks make it alone.

    Made one after another by every rank, groups of 8 are 512 collective splits at 4,096 ranks.
    """
    mine, count = data_world(world, size).rank, world.size // size
    members = [list(range(place * size, (place + 1) * size)) for place in range(count)]
    if world.device.type == "cuda":
        split = dist.split_group(split_ranks=members)
        assert split is not None  # every rank is a member of a part
        return split
    return dist.new_group(members[mine], use_local_synchronization=True)


def named_group(name: str) -> SequenceGroup:
    """Return the group of this name, which this rank has made."""
    return _made[name]


def split_tokens(x: Tensor, sequence: SequenceGroup) -> Tensor:
    """Return this rank's share (B, N / size, ...) of tokens (B, N, ...) that the whole group holds."""
    missing = sequence.share(x.shape[1]) * sequence.size - x.shape[1]
    x = F.pad(x, (0, 0) * (x.ndim - 2) + (0, missing))
    return x.chunk(sequence.size, dim=1)[sequence.rank].contiguous()


def gather_tokens(x: Tensor, tokens: int, sequence: SequenceGroup) -> Tensor:
    """Gather all `tokens` tokens (B, N, D) on every rank, from the shares (B, N / size, D)."""
    return _Gather.apply(x, sequence)[:, :tokens]


def tokens_to_heads(tensors: Sequence[Tensor], tokens: int, sequence: SequenceGroup) -> Tensor:
    """Exchange a share of the tokens with all heads for all tokens with a share of the heads.

    tensors: P of (B, N / size, K, Dh), which travel together.  Returns (P, B, N, K / size, Dh), unpadded.
    """
    if tensors[0].shape[2] % sequence.size:
        raise UserError("sequence_parallel", sequence.size, f"a divisor of {tensors[0].shape[2]} heads")
    parts = [rearrange(x, "b n (s k) d -> s b n k d", s=sequence.size) for x in tensors]
    received = _AllToAll.apply(torch.stack(parts, dim=1), sequence)
    return rearrange(received, "s p b n k d -> p b (s n) k d")[:, :, :tokens]


def heads_to_tokens(x: Tensor, sequence: SequenceGroup) -> Tensor:
    """Undo `tokens_to_heads`: (B, N, K / size, Dh) to this rank's share (B, N / size, K, Dh), padded."""
    missing = sequence.share(x.shape[1]) * sequence.size - x.shape[1]
    parts = rearrange(F.pad(x, (0, 0, 0, 0, 0, missing)), "b (s n) k d -> s b n k d", s=sequence.size)
    return rearrange(_AllToAll.apply(parts, sequence), "s b n k d -> b n (s k) d")


class _AllToAll(torch.autograd.Function):
    """Part i of the first dimension goes to rank i; its own inverse, hence also its own gradient."""

    @staticmethod
    def forward(ctx: Any, parts: Tensor, sequence: SequenceGroup) -> Tensor:
        ctx.sequence = sequence
        parts = parts.contiguous()
        out = torch.empty_like(parts)
        dist.all_to_all_single(out, parts, group=sequence.group)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return _AllToAll.apply(gradients[0], ctx.sequence), None


class _Gather(torch.autograd.Function):
    """Concatenates all ranks' tokens; all compute the same loss, so a rank's gradient is its own part."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, sequence: SequenceGroup) -> Tensor:
        ctx.sequence = sequence
        shares = [torch.empty_like(x) for _ in range(sequence.size)]
        dist.all_gather(shares, x.contiguous(), group=sequence.group)
        return torch.cat(shares, dim=1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        share = gradients[0].chunk(ctx.sequence.size, dim=1)[ctx.sequence.rank]
        return share * ctx.sequence.size, None
