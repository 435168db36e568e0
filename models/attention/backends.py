"""Attention backends, each a function of (query, key, value, mask); `dispatch.py` chooses among them.

query: (B, N, K, Dh).  key, value: (B, M, K, Dh).  mask: true where a query may look, broadcast to
(B, K, N, M), or None.  Returns (B, N, K, Dh). The only user of flash-attn.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor
from torch.utils.checkpoint import checkpoint

# Scores of one chunk hold at most this many numbers, 16 MiB in bfloat16. Larger ones leave a CPU's cache:
# 4096 tokens take 0.53 s forward and backward, 1.04 s in chunks of 64 MiB, 0.96 s in torch's fused kernel.
CHUNK_NUMBERS = 1 << 23

FLASH_MODULES = {  # `flash_attn` alone says nothing: flash-attn 4 installs only a sub-package
    "flash2": "flash_attn.flash_attn_interface",
    "flash3": "flash_attn_interface",
    "flash4": "flash_attn.cute",
}
FLASH_PACKAGES = ("flash-attn", "flash-attn-3", "flash-attn-4")

aten = torch.ops.aten
Function = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]
_libraries: dict[str, tuple[Any, str]] = {}


def library(name: str) -> tuple[Any, str]:
    """Return a module of flash-attn and '', or None and why there is none.

    Imported once: compiled code would break off at an import, and a search of the path in every call takes as
    long as a kernel. A build for another torch is there and cannot be loaded.
    """
    if name not in _libraries:
        try:
            _libraries[name] = importlib.import_module(name), ""
        except (ImportError, OSError, RuntimeError, AttributeError) as error:
            missing = isinstance(error, ModuleNotFoundError) and name.startswith(error.name or "?")
            reason = str(error).strip().partition("\n")[0]
            why = "is not installed" if missing else f"cannot be loaded ({reason})"
            _libraries[name] = None, f"{name} {why}"
    return _libraries[name]


def releases() -> str:
    """Return releases of the CUDA attention libraries besides torch, to be recorded with measurements."""
    found = [f"cuDNN {torch.backends.cudnn.version()}"]
    for package in FLASH_PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found.append(f"{package} {importlib.metadata.version(package)}")
    return ", ".join(found)


def function(backend: str) -> Function:
    """Return the backend of this name."""
    if backend in FLASH_MODULES:
        return _flash(FLASH_MODULES[backend])
    return _FUNCTIONS[backend]


def packed(backend: str, query: Tensor, key: Tensor, value: Tensor, sizes: Sequence[int]) -> Tensor:
    """Compute attention of samples of `sizes` tokens that lie one after another along N, each within itself.

    `math` does it as one product under a block-diagonal mask, which is the plain twin. flash-attn has a
    kernel for it; the others take one sample after another, so none computes a score between two samples.
    """
    if backend == "math":
        sample = torch.repeat_interleave(torch.tensor(sizes, device=query.device))
        return _math(query, key, value, (sample[:, None] == sample)[None, None])
    if backend in FLASH_MODULES:
        return _flash_packed(FLASH_MODULES[backend], query, key, value, sizes)
    run = function(backend)
    parts = zip(*(tensor.split(list(sizes), dim=1) for tensor in (query, key, value)), strict=True)
    return torch.cat([run(q, k, v, None) for q, k, v in parts], dim=1)


def _math(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """Compute attention with every product written out, softmax in float32 or wider (plain twin of all)."""
    scores = torch.einsum("bnkd,bmkd->bknm", query * query.shape[-1] ** -0.5, key)
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    wide = torch.promote_types(scores.dtype, torch.float32)
    return torch.einsum("bknm,bmkd->bnkd", scores.softmax(-1, dtype=wide).to(value.dtype), value)


def _chunked(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """Compute batched matrix products over chunks of queries; memory O(chunk * M), backward too."""
    batch, num_keys, heads = key.shape[:3]
    q, k, v = (
        rearrange(tensor, "b n k d -> (b k) n d") for tensor in (query * query.shape[-1] ** -0.5, key, value)
    )
    bias = None
    if mask is not None:
        bias = torch.zeros(mask.shape, dtype=q.dtype, device=q.device).masked_fill(~mask, float("-inf"))
        bias = bias.expand(-1, heads, -1, -1).flatten(0, 1)
    rows = max(64, CHUNK_NUMBERS // (batch * heads * num_keys))
    if rows >= q.shape[1]:
        out = _rows(q, k, v, bias)
    else:
        # Recomputing a chunk's scores in the backward pass is what keeps them from all being alive at once.
        chunks = [checkpoint(_rows, part, k, v, bias, use_reentrant=False) for part in q.split(rows, dim=1)]
        out = torch.cat(chunks, dim=1)
    return rearrange(out, "(b k) n d -> b n k d", b=batch)


def _rows(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> Tensor:
    return _Rows.apply(query, key, value, bias)


class _Rows(torch.autograd.Function):
    """softmax(q k^T + bias) v, of (B, N, Dh) each, with the gradient of the keys written out.

    Autograd makes that of the transposed keys, and then transposes it: another pass, and a slow one.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> Tensor:
        scores = torch.bmm(query, key.mT)
        weights = (scores if bias is None else scores + bias).softmax(-1)
        ctx.save_for_backward(query, key, value, weights)
        return torch.bmm(weights, value)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, weights = ctx.saved_tensors
        (gradient,) = gradients
        of_weights = torch.bmm(gradient, value.mT)
        of_scores = torch.ops.aten._softmax_backward_data(of_weights, weights, -1, weights.dtype)
        return (
            torch.bmm(of_scores, key),
            torch.bmm(of_scores.mT, query),
            torch.bmm(weights.mT, gradient),
            None,
        )


def _of_heads(kernel: Function) -> Function:
    """Return the backend of one of torch's kernels, which take (B, K, N, Dh) and any strides but the last.

    Kernels are called by themselves: `torch.nn.attention.sdpa_kernel` chooses one by flags of the whole
    process, and a text encoder that attends in another thread meanwhile finds none that it can use.
    """

    def run(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        q, k, v = (
            rearrange(tensor if tensor.stride(-1) == 1 else tensor.contiguous(), "b n k d -> b k n d")
            for tensor in (query, key, value)
        )
        return rearrange(kernel(q, k, v, mask), "b k n d -> b n k d")

    return run


def _any_kernel(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, mask)


def widened(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Pad the width of heads with zeros to a multiple of 8, as kernels on CUDA ask."""
    return tuple(F.pad(x, (0, -x.shape[-1] % 8)) if x.shape[-1] % 8 else x for x in tensors)


def on_widened(kernel: Callable[..., Any], heads: Sequence[Tensor], *more: Any) -> tuple[Tensor, Tensor]:
    """Return the output (B, K, N, Dh) and the log-sum-exp of a kernel for CUDA, given widened heads.

    heads: queries, keys and values.  more: what the kernel takes after them.
    """
    width = heads[0].shape[-1]
    out, log_total = kernel(*widened(*heads), *more, scale=width**-0.5)[:2]
    return out[..., :width], log_total


def _flash_kernel(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Call FlashAttention 2."""
    if q.device.type == "cpu":
        run, scale = aten._scaled_dot_product_flash_attention_for_cpu, q.shape[-1] ** -0.5
        return run(q, k, v, attn_mask=mask, scale=scale)[0]
    return on_widened(aten._scaled_dot_product_flash_attention, (q, k, v))[0]


def _cudnn_kernel(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    if k.shape[2] == 1:  # which it refuses
        return _any_kernel(q, k, v, mask)
    keeps = _needs_backward(q, k, v)
    return on_widened(aten._scaled_dot_product_cudnn_attention, (q, k, v), None, keeps)[0]


def _efficient_kernel(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Call the kernel of xFormers; a mask becomes numbers to add, in rows that begin at multiples of 16."""
    bias, keys = None, k.shape[2]
    if mask is not None:
        shape = (*mask.shape[:-1], keys + -keys % 16)
        bias = q.new_zeros(shape)
        bias[..., :keys].masked_fill_(~mask, float("-inf"))
        bias = bias[..., :keys].expand(*q.shape[:3], keys)
    keeps = _needs_backward(q, k, v)
    return on_widened(aten._scaled_dot_product_efficient_attention, (q, k, v), bias, keeps)[0]


def _needs_backward(*tensors: Tensor) -> bool:
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


_FUNCTIONS: dict[str, Function] = {
    "math": _math,
    "chunked": _chunked,
    "sdpa": _of_heads(_any_kernel),
    "sdpa_flash": _of_heads(_flash_kernel),
    "sdpa_cudnn": _of_heads(_cudnn_kernel),
    "sdpa_efficient": _of_heads(_efficient_kernel),
}


def _flash(module: str) -> Function:
    def run(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        out = library(module)[0].flash_attn_func(query, key, value)
        return out[0] if isinstance(out, tuple) else out  # some releases also return the log-sum-exp

    return run


def _flash_packed(module: str, query: Tensor, key: Tensor, value: Tensor, sizes: Sequence[int]) -> Tensor:
    starts = torch.tensor([0, *itertools.accumulate(sizes)], dtype=torch.int32)
    starts = starts.to(query.device, non_blocking=True)
    out = library(module)[0].flash_attn_varlen_func(
        *(tensor[0] for tensor in (query, key, value)),
        cu_seqlens_q=starts,
        cu_seqlens_k=starts,
        max_seqlen_q=max(sizes),
        max_seqlen_k=max(sizes),
    )
    return (out[0] if isinstance(out, tuple) else out)[None]
