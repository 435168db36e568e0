"""Compute a hop of ring attention with every product written out: the plain twin of `ring_kernels.py`.

Sums are in float32 or wider, over chunks of queries; scores of one chunk are alive at a time.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from models.attention import backends

CHUNK_NUMBERS = 1 << 27  # scores at once on a GPU, 512 MiB; a CPU has a cache to stay in


class ProductSums:
    """The weighted values of all keys so far, for the queries (B, K, N, Dh) of this rank.

    Joined by the online softmax (Milakov and Gimelshein, arXiv:1805.02867).
    """

    def __init__(self, query: Tensor) -> None:
        self._q = query * query.shape[-1] ** -0.5
        self._out = torch.zeros_like(query, dtype=wide(query.dtype))
        self._total = self._out.new_zeros(query.shape[:-1])
        self._highest = torch.full_like(self._total, float("-inf"))

    def add(self, k: Tensor, v: Tensor) -> None:
        """Add keys and values (B, K, M, Dh), M > 0."""
        for rows in _chunks(self._q, k.shape[2]):
            out, total, highest = (x[:, :, rows] for x in (self._out, self._total, self._highest))
            scores = _product(self._q[:, :, rows], k.mT)
            higher = torch.maximum(highest, scores.amax(-1))
            kept, weights = (highest - higher).exp_(), scores.sub_(higher[..., None]).exp_()
            total.mul_(kept).add_(weights.sum(-1))
            out.mul_(kept[..., None]).add_(_product(weights.to(v.dtype), v))
            highest.copy_(higher)

    def result(self) -> tuple[Tensor, Tensor]:
        """Return the output (B, K, N, Dh), and the logarithm of the sum of all weights (B, K, N)."""
        return self._out / self._total[..., None], self._highest + self._total.log()


class ProductGradients:
    """The gradients of queries, keys and values by FlashAttention's equations (arXiv:2205.14135, app. B.4).

    grad: of the output.  out, log_total: of all keys of the ring, as `result` returned them.
    """

    def __init__(self, grad: Tensor, query: Tensor, out: Tensor, log_total: Tensor) -> None:
        self._scale = query.shape[-1] ** -0.5
        self._grad, self._q, self._log_total = grad, query * self._scale, log_total
        self._own = (grad.to(log_total.dtype) * out).sum(-1, keepdim=True)
        self._grad_q = torch.zeros_like(query, dtype=log_total.dtype)

    def add(self, k: Tensor, v: Tensor, found: Tensor) -> None:
        """Add the gradients of keys and values (B, K, M, Dh) to `found` (2, B, K, M, Dh)."""
        for rows in _chunks(self._q, k.shape[2]):
            q, grad, own, log_total = (
                x[:, :, rows] for x in (self._q, self._grad, self._own, self._log_total)
            )
            weights = _product(q, k.mT).sub_(log_total[..., None]).exp_()
            scores = _product(grad, v.mT).sub_(own).mul_(weights).to(q.dtype)
            self._grad_q[:, :, rows] += _product(scores, k)
            found[0] += _product(scores.mT, q)
            found[1] += _product(weights.to(q.dtype).mT, grad)

    def of_query(self) -> Tensor:
        """Return the gradient of the queries, of all keys that were added."""
        return self._grad_q * self._scale


def wide(dtype: torch.dtype) -> torch.dtype:
    """Return the type in which what hops give is added up."""
    return torch.promote_types(dtype, torch.float32)


def _chunks(q: Tensor, keys: int) -> Iterator[slice]:
    """Return slices of the rows of queries (B, K, N, Dh), so short that scores against `keys` stay small."""
    batch, heads, rows, _ = q.shape
    most = CHUNK_NUMBERS if q.is_cuda else backends.CHUNK_NUMBERS
    step = max(64, most // (batch * heads * keys))
    return (slice(start, start + step) for start in range(0, rows, step))


def _product(left: Tensor, right: Tensor) -> Tensor:
    """Return left @ right (B, K, ., .) in float32 or wider, never rounded to a narrower one on the way."""
    dtype = wide(left.dtype)
    if left.is_cuda and left.dtype != dtype:
        flat = torch.bmm(left.flatten(0, 1), right.flatten(0, 1), out_dtype=dtype)
        return flat.unflatten(0, left.shape[:2])
    return left.to(dtype) @ right.to(dtype)
