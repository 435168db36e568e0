"""Self-attention among tokens that several ranks share, for any number of heads: a ring of keys and values.

Keys and values travel around the ring of ranks while each rank keeps its queries (Ring Attention,
arXiv:2310.01889); what each hop gives is joined exactly by the online softmax (Milakov and Gimelshein,
arXiv:1805.02867), in float32 or wider. What travels does so behind the products.

It is one operation to torch, so that torch.compile does not break its graph at a transfer, and activation
checkpointing that keeps attention's output need not send anything again.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from core.distributed.sequence import SequenceGroup, named_group
from models.attention import backends

CHUNK_NUMBERS = 1 << 27  # scores at once on a GPU, 512 MiB; a CPU has a cache to stay in


def ring_attention(query: Tensor, key: Tensor, value: Tensor, tokens: int, sequence: SequenceGroup) -> Tensor:
    """Compute attention of this rank's queries to all `tokens` tokens of the group (collective: the group).

    query, key, value: (B, N / size, K, Dh), this rank's share, padded.  Returns the same shape; its content
    at padding is arbitrary, and nothing attends to padding. Memory O(N / size) a head beside a chunk of
    scores, forward and backward.
    """
    return _ring(query, key, value, tokens, sequence.name)[0]


@torch.library.custom_op("longtake_attention::ring", mutates_args=())
def _ring(query: Tensor, key: Tensor, value: Tensor, tokens: int, group: str) -> tuple[Tensor, Tensor]:
    """Return the output, and the logarithm of the sum of all weights (B, K, N / size)."""
    sequence = named_group(group)
    q, block = _rows(query) * query.shape[-1] ** -0.5, torch.stack([_rows(key), _rows(value)])
    out = torch.zeros_like(q, dtype=_wide(q.dtype))
    total = out.new_zeros(out.shape[:-1])
    highest = torch.full_like(total, float("-inf"))
    for hop in range(sequence.size):
        arriving = _PassOn(block, sequence) if hop + 1 < sequence.size else None
        if valid := sequence.valid(tokens, (sequence.rank - hop) % sequence.size):
            k, v = block[:, :, :, :valid]
            for rows in _chunks(q, valid):
                _join(q[:, :, rows], k, v, out[:, :, rows], total[:, :, rows], highest[:, :, rows])
        block = arriving.wait() if arriving else block
    out = (out / total[..., None]).to(query.dtype)
    return _rows(out).contiguous(), highest + total.log()


def _join(q: Tensor, k: Tensor, v: Tensor, out: Tensor, total: Tensor, highest: Tensor) -> None:
    """Add the weighted values of some keys to what the queries have so far, in place."""
    scores = _product(q, k.mT)
    higher = torch.maximum(highest, scores.amax(-1))
    kept, weights = (highest - higher).exp_(), scores.sub_(higher[..., None]).exp_()
    total.mul_(kept).add_(weights.sum(-1))
    out.mul_(kept[..., None]).add_(_product(weights.to(v.dtype), v))
    highest.copy_(higher)


@torch.library.custom_op("longtake_attention::ring_backward", mutates_args=())
def _ring_backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    log_total: Tensor,
    tokens: int,
    group: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """Apply FlashAttention's equations (arXiv:2205.14135, appendix B.4), a block of keys at a time.

    The gradient of a block follows it around the ring, one hop behind, and ends where the block is at home.
    """
    sequence, scale = named_group(group), query.shape[-1] ** -0.5
    q, grad = _rows(query) * scale, _rows(grad)
    block = torch.stack([_rows(key), _rows(value)])
    own = (grad.to(log_total.dtype) * _rows(out)).sum(-1, keepdim=True)
    grad_q = torch.zeros_like(q, dtype=log_total.dtype)
    at_home, under_way = torch.zeros_like(block, dtype=log_total.dtype), None
    for hop in range(sequence.size):
        arriving = _PassOn(block, sequence) if hop + 1 < sequence.size else None
        found = torch.zeros_like(at_home) if hop else at_home
        if valid := sequence.valid(tokens, (sequence.rank - hop) % sequence.size):
            k, v = block[:, :, :, :valid]
            for rows in _chunks(q, valid):
                sides = [tensor[:, :, rows] for tensor in (q, grad, own, log_total, grad_q)]
                _add_gradients(sides, k, v, found[:, :, :, :valid])
        if hop:
            found = found if under_way is None else found.add_(under_way.wait())
            under_way = _PassOn(found, sequence, tag=1)
        block = arriving.wait() if arriving else block
    if under_way is not None:
        at_home += under_way.wait()
    whole = (grad_q * scale, *at_home)
    grads = [query.new_empty(query.shape).copy_(_rows(x)) for x in whole]  # none a view, as torch asks
    return grads[0], grads[1], grads[2]


def _add_gradients(sides: list[Tensor], k: Tensor, v: Tensor, found: Tensor) -> None:
    """Add some queries' part of the gradients to theirs, and to `found`, of keys and values.

    sides: queries, gradient of the output, its product with the output, `log_total`, gradient of queries.
    """
    q, grad, own, log_total, grad_q = sides
    weights = _product(q, k.mT).sub_(log_total[..., None]).exp_()
    scores = _product(grad, v.mT).sub_(own).mul_(weights).to(q.dtype)
    grad_q += _product(scores, k)
    found[0] += _product(scores.mT, q)
    found[1] += _product(weights.to(q.dtype).mT, grad)


@_ring.register_fake
def _(query: Tensor, key: Tensor, value: Tensor, tokens: int, group: str) -> tuple[Tensor, Tensor]:
    batch, rows, heads, _ = query.shape
    return query.new_empty(query.shape), query.new_empty((batch, heads, rows), dtype=_wide(query.dtype))


@_ring_backward.register_fake
def _(grad: Tensor, query: Tensor, *others: Any) -> tuple[Tensor, Tensor, Tensor]:
    return query.new_empty(query.shape), query.new_empty(query.shape), query.new_empty(query.shape)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.tokens, ctx.group = inputs
    ctx.save_for_backward(*tensors, *output)


def _backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    return *_ring_backward(grad, *ctx.saved_tensors, ctx.tokens, ctx.group), None, None


_ring.register_autograd(_backward, setup_context=_keep)


class _PassOn:
    """Send `block` to the next rank of the ring and receive the previous one's, while others compute.

    tag: tells it from other transfers under way at the same time.
    """

    def __init__(self, block: Tensor, sequence: SequenceGroup, tag: int = 0) -> None:
        self._received, self._sent = torch.empty_like(block), block.contiguous()
        following, previous = (
            dist.get_global_rank(sequence.group, (sequence.rank + way) % sequence.size) for way in (1, -1)
        )
        self._works = dist.batch_isend_irecv(
            [
                dist.P2POp(dist.isend, self._sent, following, sequence.group, tag),
                dist.P2POp(dist.irecv, self._received, previous, sequence.group, tag),
            ]
        )

    def wait(self) -> Tensor:
        for work in self._works:
            work.wait()
        return self._received


def _chunks(q: Tensor, keys: int) -> Iterator[slice]:
    """Return slices of the rows of queries (B, K, N, Dh), so short that scores against `keys` stay small."""
    batch, heads, rows, _ = q.shape
    most = CHUNK_NUMBERS if q.is_cuda else backends.CHUNK_NUMBERS
    step = max(64, most // (batch * heads * keys))
    return (slice(start, start + step) for start in range(0, rows, step))


def _product(left: Tensor, right: Tensor) -> Tensor:
    """Return left @ right (B, K, ., .) in float32 or wider, never rounded to a narrower one on the way."""
    wide = _wide(left.dtype)
    if left.is_cuda and left.dtype != wide:
        flat = torch.bmm(left.flatten(0, 1), right.flatten(0, 1), out_dtype=wide)
        return flat.unflatten(0, left.shape[:2])
    return left.to(wide) @ right.to(wide)


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _rows(x: Tensor) -> Tensor:
    """Transpose (B, N, K, Dh) to (B, K, N, Dh), for matrix products per head; and back."""
    return x.transpose(1, 2)
