"""Compare attention shared by ranks with that of one rank; run as a program on every rank of a world."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from core.distributed import ranks
from core.distributed.sequence import (
    SequenceGroup,
    gather_tokens,
    make_sequence_group,
    split_tokens,
)
from core.run.ending import end_with
from models.attention import backends
from models.attention.by_heads import shared_attention
from models.attention.by_ring import ring_attention
from models.attention.dispatch import attention
from tests.models.attention.shared_network_run import compare_networks

TRAFFIC = 12  # tokens of the call whose transfers are counted
LONG = 70  # tokens a rank that are more than one chunk of the ring's queries


def compare(sequence: SequenceGroup, tokens: int, heads: int, dtype: torch.dtype, ring: bool) -> float:
    """Return how far output and gradients are from one rank's in float64, relative to their norms."""
    generator = torch.Generator().manual_seed(tokens)
    inputs = torch.randn(3, 2, tokens, heads, 4, generator=generator, dtype=torch.float64) * 2
    weight = torch.randn(2, tokens, heads, 4, generator=generator, dtype=torch.float64)
    whole = inputs.to(dtype).double().requires_grad_()
    expected = attention(*whole.unbind(), backend="math")
    (expected_grad,) = torch.autograd.grad((expected * weight).sum(), whole)
    leaf = inputs.to(dtype).requires_grad_()
    shares = [split_tokens(x, sequence) for x in leaf.unbind()]
    attend = ring_attention if ring else shared_attention
    out = gather_tokens(attend(*shares, tokens, sequence).flatten(2), tokens, sequence).view(weight.shape)
    (grad,) = torch.autograd.grad((out.double() * weight).sum(), leaf)
    grad = ranks.sum_over_ranks(grad.double()) / sequence.size  # each loss is the same, times the size
    pairs = ((out.detach().double(), expected.detach()), (grad, expected_grad))
    return max(float((a - b).norm() / b.norm()) for a, b in pairs)


def count_traffic(sequence: SequenceGroup) -> None:
    """Print how many numbers this rank sends in each transfer, forward and backward."""
    sent: list[int] = []
    trade, pass_on = dist.all_to_all_single, dist.batch_isend_irecv

    def traded(out: Tensor, parts: Tensor, **options: Any) -> Any:
        sent.append(parts.numel() * (sequence.size - 1) // sequence.size)  # one part stays here
        return trade(out, parts, **options)

    def passed_on(operations: list[dist.P2POp]) -> Any:
        sent.extend(one.tensor.numel() for one in operations if one.op is dist.isend)
        return pass_on(operations)

    dist.all_to_all_single, dist.batch_isend_irecv = traded, passed_on  # type: ignore[assignment]
    for form in ("heads", "ring"):
        sent.clear()
        compare(sequence, TRAFFIC, sequence.size, torch.float32, ring=form == "ring")
        print(f"traffic={form} {sent}")
    dist.all_to_all_single, dist.batch_isend_irecv = trade, pass_on


def main() -> None:
    """Print one line per case: form, tokens, heads, dtype, difference."""
    world = ranks.start("cpu", 60)
    sequence = make_sequence_group(world, world.size)
    assert sequence is not None
    count_traffic(sequence)
    backends.CHUNK_NUMBERS = 1
    for dtype in (torch.float64, torch.bfloat16):
        for tokens in (1, 2, 5, 12, 13, LONG * world.size):
            for heads, ring in ((world.size, False), (world.size + 1, False), (2 * world.size, True)):
                found = compare(sequence, tokens, heads, dtype, ring)
                if world.rank == 0:
                    print(f"tokens={tokens} heads={heads} ring={ring} {dtype} {found:.3e}")
    for line in compare_networks(sequence):
        if world.rank == 0:
            print(line)
    ranks.stop(world)


if __name__ == "__main__":
    end_with(main)
