"""Compute a hop of ring attention by a fused kernel that returns the log-sum-exp of its scores.

A hop's output is that of its keys alone; two hops join by their log-sum-exps. Backward, each hop's kernel
is given the output and the log-sum-exp of all keys, which makes its weights those of the whole softmax.
No kernel keeps scores: memory is O(N) a head at every hop, forward and backward.

Kernels take queries (B, K, N, Dh), keys and values (B, K, M, Dh), M > 0, and return the output
(B, K, N, Dh) in their type and the log-sum-exp (B, K, N) in float32 or wider.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from models.attention.backends import on_widened, widened
from models.attention.ring_products import wide

ALIGNED = 32  # rows to which the memory-efficient kernel pads its log-sum-exp, with +inf

aten = torch.ops.aten
Forward = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
Backward = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]


@dataclass(frozen=True)
class Kernel:
    """backward: of the gradient of the output, queries, keys, values, whole output and log-sum-exp."""

    forward: Forward
    backward: Backward


class KernelSums:
    """The output of all keys so far, and its log-sum-exp, for the queries (B, K, N, Dh) of this rank."""

    def __init__(self, kernel: Kernel, query: Tensor) -> None:
        self._kernel, self._query = kernel, query
        self._out: Tensor | None = None
        self._log_total = query.new_empty(0)

    def add(self, k: Tensor, v: Tensor) -> None:
        """Add keys and values (B, K, M, Dh), M > 0."""
        out, log_total = self._kernel.forward(self._query, k, v)
        out = out.to(wide(out.dtype))
        if self._out is None:
            self._out, self._log_total = out, log_total
            return
        self._out = self._out.lerp_(out, torch.sigmoid(log_total - self._log_total)[..., None])
        self._log_total = torch.logaddexp(self._log_total, log_total)

    def result(self) -> tuple[Tensor, Tensor]:
        """Return the output (B, K, N, Dh), and the logarithm of the sum of all weights (B, K, N)."""
        assert self._out is not None, "no keys were added"
        return self._out, self._log_total


class KernelGradients:
    """The gradients of queries, keys and values; each hop's are added up in float32 or wider.

    grad: of the output.  out, log_total: of all keys of the ring.
    """

    def __init__(self, kernel: Kernel, grad: Tensor, query: Tensor, out: Tensor, log_total: Tensor) -> None:
        self._kernel, self._grad, self._query = kernel, grad, query
        self._out, self._log_total = out, log_total
        self._grad_q = torch.zeros_like(query, dtype=log_total.dtype)

    def add(self, k: Tensor, v: Tensor, found: Tensor) -> None:
        """Add the gradients of keys and values (B, K, M, Dh) to `found` (2, B, K, M, Dh)."""
        grad_q, grad_k, grad_v = self._kernel.backward(
            self._grad, self._query, k, v, self._out, self._log_total
        )
        self._grad_q += grad_q
        found[0] += grad_k
        found[1] += grad_v

    def of_query(self) -> Tensor:
        """Return the gradient of the queries, of all keys that were added."""
        return self._grad_q


def _flash(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Call FlashAttention 2."""
    if q.device.type == "cpu":
        run, scale = aten._scaled_dot_product_flash_attention_for_cpu, q.shape[-1] ** -0.5
        out, log_total = run(q, k, v, scale=scale)
        return out, log_total
    return on_widened(aten._scaled_dot_product_flash_attention, (q, k, v))


def _flash_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, log_total: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    scale, width = q.shape[-1] ** -0.5, q.shape[-1]
    if q.device.type == "cpu":
        run = aten._scaled_dot_product_flash_attention_for_cpu_backward
        grad_q, grad_k, grad_v = run(grad, q, k, v, out, log_total, 0.0, False, scale=scale)
        return grad_q, grad_k, grad_v
    none, seed = None, q.new_zeros(2, dtype=torch.uint64)  # no samples of their own length, no dropout
    given = (*widened(grad, q, k, v, out), log_total, none, none, q.shape[2], k.shape[2], 0.0, False)
    run = aten._scaled_dot_product_flash_attention_backward
    return _narrowed(run(*given, seed, seed.new_empty(0), scale=scale), width)


def _cudnn(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    if k.shape[2] == 1:  # which it refuses
        return _flash(q, k, v)
    out, log_total = on_widened(aten._scaled_dot_product_cudnn_attention, (q, k, v), None, True)
    return out, log_total.view(out.shape[:-1])


def _cudnn_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, log_total: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    if k.shape[2] == 1:
        return _flash_backward(grad, q, k, v, out, log_total)
    scale, width, seed = q.shape[-1] ** -0.5, q.shape[-1], q.new_zeros((), dtype=torch.int64)
    given = (*widened(grad, q, k, v, out), log_total[..., None], seed, seed, None, None, None)
    run = aten._scaled_dot_product_cudnn_attention_backward
    return _narrowed(run(*given, q.shape[2], k.shape[2], 0.0, False, scale=scale), width)


def _efficient(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Call the kernel of xFormers."""
    out, log_total = on_widened(aten._scaled_dot_product_efficient_attention, (q, k, v), None, True)
    return out, log_total[..., : q.shape[2]]


def _efficient_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, log_total: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    scale, width, seed = q.shape[-1] ** -0.5, q.shape[-1], q.new_zeros((), dtype=torch.int64)
    sums = F.pad(log_total, (0, -log_total.shape[-1] % ALIGNED), value=float("inf"))
    grad, q, k, v, out = widened(grad, q, k, v, out)
    run = aten._scaled_dot_product_efficient_attention_backward
    given = (grad, q, k, v, None, out, sums, seed, seed, 0.0, [True, True, True, False])
    return _narrowed(run(*given, scale=scale), width)


def _narrowed(gradients: Sequence[Tensor], width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of queries, keys and values, which come first, as wide as heads are."""
    of_q, of_k, of_v = (gradient[..., :width] for gradient in gradients[:3])
    return of_q, of_k, of_v


KERNELS: dict[str, Kernel] = {
    "sdpa_flash": Kernel(_flash, _flash_backward),
    "sdpa_cudnn": Kernel(_cudnn, _cudnn_backward),
    "sdpa_efficient": Kernel(_efficient, _efficient_backward),
}
