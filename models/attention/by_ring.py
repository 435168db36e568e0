"""Self-attention among tokens that several ranks share, for any number of heads: a ring of keys and values.

Keys and values travel around the ring of ranks while each rank keeps its queries (Ring Attention,
arXiv:2310.01889). At each hop a flash kernel attends to what has arrived, and its log-sum-exp joins the
hop exactly to those before it (`ring_kernels.py`); in `math` every product is written out
(`ring_products.py`). What travels does so behind the kernels.

It is one operation to torch, so that torch.compile does not break its graph at a transfer, and activation
checkpointing that keeps attention's output need not send anything again.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Protocol, cast

import torch
import torch.distributed as dist
from torch import Tensor

from core.distributed.sequence import SequenceGroup, named_group
from models.attention.dispatch import Backend
from models.attention.ring_kernels import KERNELS, KernelGradients, KernelSums
from models.attention.ring_products import ProductGradients, ProductSums, wide

RING_BACKENDS: tuple[Backend, ...] = cast(tuple[Backend, ...], ("math", *KERNELS))


class Sums(Protocol):
    """What the queries of a rank have of the keys that were added."""

    def add(self, k: Tensor, v: Tensor) -> None: ...
    def result(self) -> tuple[Tensor, Tensor]: ...


class Gradients(Protocol):
    """The gradients of a rank's queries, and of the keys and values that are added."""

    def add(self, k: Tensor, v: Tensor, found: Tensor) -> None: ...
    def of_query(self) -> Tensor: ...


def ring_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    tokens: int,
    sequence: SequenceGroup,
    backend: Backend = "auto",
) -> Tensor:
    """Compute attention of this rank's queries to all `tokens` tokens of the group (collective: the group).

    query, key, value: (B, N / size, K, Dh), this rank's share, padded.  backend: of RING_BACKENDS, or auto.
    Returns the same shape; its content at padding is arbitrary, and nothing attends to padding. Memory
    O(N / size) a head, forward and backward; of `math` beside a chunk of scores.
    """
    named = ring_backend(query) if backend == "auto" else backend
    return _ring(query, key, value, tokens, sequence.name, named)[0]


def ring_backend(query: Tensor) -> Backend:
    """Return the backend by rule for tensors like `query`; a training run measures (`choice.py`)."""
    half = query.dtype in (torch.bfloat16, torch.float16)
    if query.device.type == "cpu" or (query.is_cuda and half):
        return "sdpa_flash"
    return "sdpa_efficient" if query.is_cuda and query.dtype == torch.float32 else "math"


def sums_of(backend: str, query: Tensor) -> Sums:
    """Return the sums of queries (B, K, N, Dh) before any keys."""
    return ProductSums(query) if backend == "math" else KernelSums(KERNELS[backend], query)


def gradients_of(backend: str, *tensors: Tensor) -> Gradients:
    """Return the gradients before any keys.

    tensors: gradient of the output, queries, output, each (B, K, N, Dh), and its log-sum-exp (B, K, N).
    """
    make = ProductGradients if backend == "math" else partial(KernelGradients, KERNELS[backend])
    return make(*tensors)


def ring_alone(query: Tensor, key: Tensor, value: Tensor, *, backend: Backend) -> Tensor:
    """Compute attention as a rank of a ring does, of keys that are all here and come in two hops.

    For measurements. query, key, value: (B, N, K, Dh).  Returns the same shape.
    """
    out: Tensor = _Alone.apply(query, key, value, backend)
    return out


class _Alone(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, backend: Backend) -> Tensor:
        sums = sums_of(backend, _rows(query))
        for k, v in zip(_rows(key).chunk(2, 2), _rows(value).chunk(2, 2), strict=True):
            sums.add(k, v)
        out, log_total = sums.result()
        out = _rows(out.to(query.dtype)).contiguous()
        ctx.save_for_backward(query, key, value, out, log_total.contiguous())
        ctx.backend = backend
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, out, log_total = ctx.saved_tensors
        found = gradients_of(ctx.backend, *map(_rows, (gradients[0].contiguous(), query, out)), log_total)
        k, v = _rows(key), _rows(value)
        sides = torch.zeros((2, *k.shape), dtype=log_total.dtype, device=k.device)
        for hop in zip(k.chunk(2, 2), v.chunk(2, 2), sides.chunk(2, 3), strict=True):
            found.add(*hop)
        return *(_rows(x).to(query.dtype) for x in (found.of_query(), *sides)), None


@torch.library.custom_op("longtake_attention::ring", mutates_args=())
def _ring(
    query: Tensor, key: Tensor, value: Tensor, tokens: int, group: str, backend: str
) -> tuple[Tensor, Tensor]:
    """Return the output, and the logarithm of the sum of all weights (B, K, N / size)."""
    sequence = named_group(group)
    sums, block = sums_of(backend, _rows(query)), torch.stack([_rows(key), _rows(value)])
    for hop in range(sequence.size):
        arriving = _PassOn(block, sequence) if hop + 1 < sequence.size else None
        if valid := sequence.valid(tokens, (sequence.rank - hop) % sequence.size):
            k, v = block[:, :, :, :valid]
            sums.add(k, v)
        block = arriving.wait() if arriving else block
    out, log_total = sums.result()
    return _rows(out.to(query.dtype)).contiguous(), log_total.contiguous()


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
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the gradients, a block of keys at a time.

    The gradient of a block follows it around the ring, one hop behind, and ends where the block is at home.
    """
    sequence = named_group(group)
    gradients = gradients_of(backend, *map(_rows, (grad.contiguous(), query, out)), log_total)
    block = torch.stack([_rows(key), _rows(value)])
    at_home, under_way = torch.zeros_like(block, dtype=log_total.dtype), None
    for hop in range(sequence.size):
        arriving = _PassOn(block, sequence) if hop + 1 < sequence.size else None
        found = torch.zeros_like(at_home) if hop else at_home
        if valid := sequence.valid(tokens, (sequence.rank - hop) % sequence.size):
            k, v = block[:, :, :, :valid]
            gradients.add(k, v, found[:, :, :, :valid])
        if hop:
            found = found if under_way is None else found.add_(under_way.wait())
            under_way = _PassOn(found, sequence, tag=1)
        block = arriving.wait() if arriving else block
    if under_way is not None:
        at_home += under_way.wait()
    whole = (gradients.of_query(), *at_home)
    grads = [query.new_empty(query.shape).copy_(_rows(x)) for x in whole]  # none a view, as torch asks
    return grads[0], grads[1], grads[2]


@_ring.register_fake
def _(
    query: Tensor, key: Tensor, value: Tensor, tokens: int, group: str, backend: str
) -> tuple[Tensor, Tensor]:
    batch, rows, heads, _ = query.shape
    return query.new_empty(query.shape), query.new_empty((batch, heads, rows), dtype=wide(query.dtype))


@_ring_backward.register_fake
def _(grad: Tensor, query: Tensor, *others: Any) -> tuple[Tensor, Tensor, Tensor]:
    return query.new_empty(query.shape), query.new_empty(query.shape), query.new_empty(query.shape)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.tokens, ctx.group, ctx.backend = inputs
    ctx.save_for_backward(*tensors, *output)


def _backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    found = _ring_backward(grad, *ctx.saved_tensors, ctx.tokens, ctx.group, ctx.backend)
    return *found, None, None, None


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


def _rows(x: Tensor) -> Tensor:
    """Transpose (B, N, K, Dh) to (B, K, N, Dh), as kernels and products per head take them; and back."""
    return x.transpose(1, 2)
