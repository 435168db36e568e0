"""Self-attention among tokens that several ranks share: by heads (all-to-all) or by a ring of keys.

By heads, each rank attends to everything with its share of the heads, through whatever backend is fastest:
two all-to-alls. It needs the group's size to divide the heads. Otherwise keys and values travel around the
ring of ranks while each rank keeps its queries (Ring Attention, arXiv:2310.01889), joined exactly by the
online softmax (Milakov and Gimelshein, arXiv:1805.02867).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from core.sequence import SequenceGroup, heads_to_tokens, tokens_to_heads
from models.attention import Backend, attention


def shared_attention(
    query: Tensor, key: Tensor, value: Tensor, tokens: int, sequence: SequenceGroup, backend: Backend = "auto"
) -> Tensor:
    """Attention of this rank's queries to all `tokens` tokens of the group (collective: the group).

    query, key, value: (B, N / size, K, Dh), this rank's share, padded.  Returns the same shape; what it holds
    at padding is arbitrary, and padding is attended to by nothing.
    """
    if query.shape[2] % sequence.size:
        return ring_attention(query, key, value, tokens, sequence)
    heads = tokens_to_heads((query, key, value), tokens, sequence)
    return heads_to_tokens(attention(*heads.unbind(), backend=backend), sequence)


def ring_attention(query: Tensor, key: Tensor, value: Tensor, tokens: int, sequence: SequenceGroup) -> Tensor:
    """`shared_attention` for any number of heads: memory O((N / size)^2) a head, forward and backward."""
    return _Ring.apply(query, key, value, tokens, sequence)


class _Ring(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, tokens: int, sequence: SequenceGroup
    ) -> Tensor:
        q = _rows(query) * query.shape[-1] ** -0.5
        block = torch.stack([_rows(key), _rows(value)])
        wide = torch.promote_types(q.dtype, torch.float32)
        highest = q.new_full(q.shape[:-1], float("-inf"), dtype=wide)
        total, out = torch.zeros_like(highest), torch.zeros_like(q, dtype=wide)
        for hop in range(sequence.size):
            arriving = _PassOn(block, sequence) if hop + 1 < sequence.size else None
            if valid := sequence.valid(tokens, (sequence.rank - hop) % sequence.size):
                k, v = block[:, :, :, :valid]
                scores = _product(q, k.mT, wide)
                higher = torch.maximum(highest, scores.amax(-1))
                kept, weights = (highest - higher).exp(), (scores - higher[..., None]).exp()
                total = total * kept + weights.sum(-1)
                out = out * kept[..., None] + (weights.to(v.dtype) @ v).to(wide)
                highest = higher
            block = arriving.wait() if arriving else block
        out = out / total[..., None]
        ctx.save_for_backward(query, key, value, out, highest + total.log())
        ctx.tokens, ctx.sequence = tokens, sequence
        return out.transpose(1, 2).to(query.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """FlashAttention's equations (arXiv:2205.14135, appendix B.4), a block of keys at a time."""
        query, key, value, out, log_total = ctx.saved_tensors
        sequence, scale = ctx.sequence, query.shape[-1] ** -0.5
        q, grad = _rows(query) * scale, _rows(gradients[0])
        block = torch.stack([_rows(key), _rows(value)])
        wide = out.dtype
        own = (grad.to(wide) * out).sum(-1, keepdim=True)
        grad_q, grad_block = torch.zeros_like(out), torch.zeros_like(block, dtype=wide)
        for hop in range(sequence.size):
            arriving = _PassOn(block, sequence) if hop + 1 < sequence.size else None
            if valid := sequence.valid(ctx.tokens, (sequence.rank - hop) % sequence.size):
                k, v = block[:, :, :, :valid]
                weights = (_product(q, k.mT, wide) - log_total[..., None]).exp()
                scores = (weights * (_product(grad, v.mT, wide) - own)).to(q.dtype)
                grad_q += scores @ k
                grad_block[0, :, :, :valid] += scores.mT @ q
                grad_block[1, :, :, :valid] += weights.to(q.dtype).mT @ grad
            block = arriving.wait() if arriving else block
            grad_block = _PassOn(grad_block, sequence).wait()  # after the last hop it is home again
        to_tokens = (x.transpose(1, 2).to(query.dtype) for x in (grad_q * scale, *grad_block))
        return *to_tokens, None, None


class _PassOn:
    """Send `block` to the next rank of the ring and receive the previous one's, while others compute."""

    def __init__(self, block: Tensor, sequence: SequenceGroup) -> None:
        self._received, self._sent = torch.empty_like(block), block.contiguous()
        following, previous = (
            dist.get_global_rank(sequence.group, (sequence.rank + way) % sequence.size) for way in (1, -1)
        )
        self._works = dist.batch_isend_irecv(
            [
                dist.P2POp(dist.isend, self._sent, following, sequence.group),
                dist.P2POp(dist.irecv, self._received, previous, sequence.group),
            ]
        )

    def wait(self) -> Tensor:
        for work in self._works:
            work.wait()
        return self._received


def _product(left: Tensor, right: Tensor, dtype: torch.dtype) -> Tensor:
    """left @ right (B, K, ., .) in `dtype`, never rounded to a narrower one on the way."""
    if left.is_cuda and left.dtype != dtype:
        flat = torch.bmm(left.flatten(0, 1), right.flatten(0, 1), out_dtype=dtype)
        return flat.unflatten(0, left.shape[:2])
    return left.to(dtype) @ right.to(dtype)


def _rows(x: Tensor) -> Tensor:
    """(B, N, K, Dh) as (B, K, N, Dh), for matrix products per head."""
    return x.transpose(1, 2)
