"""Compare attention shared by ranks with that of one rank; run as a program on every rank of a world."""

from __future__ import annotations

from functools import partial
from pathlib import Path
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
from models.attention.dispatch import Backend, attention
from tests.models.attention.shared_network_run import compare_networks

RINGS: tuple[Backend, ...] = ("math", "sdpa_flash")
TRAFFIC = 12  # tokens of the call whose transfers are counted
LONG = 70  # tokens a rank that are more than one chunk of the ring's queries
MANY = 4096  # tokens a rank whose scores of one hop would take 192 MiB, of 3 heads in fp32


def compare(
    sequence: SequenceGroup, tokens: int, heads: int, dtype: torch.dtype, ring: Backend | None = None
) -> float:
    """Return how far output and gradients are from one rank's in float64, relative to their norms.

    ring: go around a ring even where the heads can be shared, by this backend.
    """
    generator = torch.Generator().manual_seed(tokens)
    inputs = torch.randn(3, 2, tokens, heads, 4, generator=generator, dtype=torch.float64) * 2
    weight = torch.randn(2, tokens, heads, 4, generator=generator, dtype=torch.float64)
    whole = inputs.to(dtype).double().requires_grad_()
    expected = attention(*whole.unbind(), backend="math")
    (expected_grad,) = torch.autograd.grad((expected * weight).sum(), whole)
    leaf = inputs.to(dtype).requires_grad_()
    shares = [split_tokens(x, sequence) for x in leaf.unbind()]
    attend = partial(ring_attention, backend=ring) if ring else shared_attention
    out = gather_tokens(attend(*shares, tokens, sequence).flatten(2), tokens, sequence).view(weight.shape)
    (grad,) = torch.autograd.grad((out.double() * weight).sum(), leaf)
    grad = ranks.sum_over_ranks(grad.double()) / sequence.size  # each loss is the same, times the size
    pairs = ((out.detach().double(), expected.detach()), (grad, expected_grad))
    return max(float((a - b).norm() / b.norm()) for a, b in pairs)


def count_traffic(sequence: SequenceGroup) -> None:
    """Print how many bytes this rank sends in each transfer, forward and backward, in bfloat16."""
    sent: list[int] = []
    trade, pass_on = dist.all_to_all_single, dist.batch_isend_irecv

    def traded(out: Tensor, parts: Tensor, **options: Any) -> Any:
        sent.append(parts.nbytes * (sequence.size - 1) // sequence.size)  # one part stays here
        return trade(out, parts, **options)

    def passed_on(operations: list[dist.P2POp]) -> Any:
        sent.extend(one.tensor.nbytes for one in operations if one.op is dist.isend)
        return pass_on(operations)

    dist.all_to_all_single, dist.batch_isend_irecv = traded, passed_on  # type: ignore[assignment]
    for form in (None, *RINGS):
        sent.clear()
        compare(sequence, TRAFFIC, sequence.size, torch.bfloat16, form)
        print(f"traffic={form or 'heads'} {sent}")
    dist.all_to_all_single, dist.batch_isend_irecv = trade, pass_on


def measure_memory(sequence: SequenceGroup) -> int:
    """Return the most bytes that a forward and a backward pass around a ring add to this process."""
    query, key, value = torch.randn(3, 1, MANY, 3, 4).unbind()
    leaves = [tensor.requires_grad_() for tensor in (query, key, value)]
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = _status("VmRSS")
    ring_attention(query, key, value, MANY * sequence.size, sequence).sum().backward()
    assert all(leaf.grad is not None for leaf in leaves)
    return _status("VmHWM") - before


def _status(name: str) -> int:
    (line,) = (x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024


def main() -> None:
    """Print one line per case: form, tokens, heads, dtype, difference."""
    world = ranks.start("cpu", 60)
    sequence = make_sequence_group(world, world.size)
    assert sequence is not None
    count_traffic(sequence)
    backends.CHUNK_NUMBERS = 1
    forms: list[tuple[int, Backend | None]] = [(world.size, None), (world.size + 1, None)]
    forms += [(2 * world.size, ring) for ring in RINGS]
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        for tokens in (1, 2, 5, 12, 13, LONG * world.size):
            for heads, ring in forms:
                found = compare(sequence, tokens, heads, dtype, ring)
                if world.rank == 0:
                    print(f"tokens={tokens} heads={heads} ring={ring} {dtype} {found:.3e}")
    print(f"memory={measure_memory(sequence)}")
    for line in compare_networks(sequence):
        if world.rank == 0:
            print(line)
    ranks.stop(world)


if __name__ == "__main__":
    end_with(main)
