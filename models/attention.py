"""Attention behind one function with named backends; the only user of flash-attn."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

from core.errors import UserError

Backend = Literal[
    "auto", "math", "chunked", "sdpa", "sdpa_flash", "sdpa_cudnn", "sdpa_efficient", "flash2", "flash3"
]
BACKENDS: tuple[str, ...] = get_args(Backend)

# Scores of one chunk hold at most this many numbers, 16 MiB in bfloat16. Larger ones leave a CPU's cache:
# 4096 tokens take 0.53 s forward and backward, 1.04 s in chunks of 64 MiB, 0.96 s in torch's fused kernel.
CHUNK_NUMBERS = 1 << 23

_SDPA = {
    "sdpa_flash": SDPBackend.FLASH_ATTENTION,
    "sdpa_cudnn": SDPBackend.CUDNN_ATTENTION,
    "sdpa_efficient": SDPBackend.EFFICIENT_ATTENTION,
}
_FLASH_MODULES = {"flash2": "flash_attn.flash_attn_interface", "flash3": "flash_attn_interface"}
_WITHOUT_LENGTHS = ("sdpa_flash", "flash2", "flash3")


def attention(
    query: Tensor, key: Tensor, value: Tensor, *, backend: Backend = "auto", lengths: Tensor | None = None
) -> Tensor:
    """Scaled dot-product attention, softmax(q k^T / sqrt(Dh)) v (Eq. 1, arXiv:1706.03762).

    query: (B, N, K, Dh).  key, value: (B, M, K, Dh).  lengths: (B,) int, how many keys of each sample are
    valid; a sample with none gets zeros.  Returns (B, N, K, Dh) in the dtype of `query`.
    Raises UserError where a named backend cannot do this; `auto` always finds one that can.
    """
    if backend == "auto":
        backend = choose(query, masked=lengths is not None)
    elif reason := unavailable(backend, query.device.type, masked=lengths is not None):
        raise UserError("attention", backend, f"another backend, since {reason}")
    mask = None if lengths is None else _key_mask(lengths, key.shape[1])
    out = _function(backend)(query, key, value, mask)
    return out if lengths is None else out * (lengths > 0).to(out.dtype)[:, None, None, None]


def choose(query: Tensor, *, masked: bool = False) -> Backend:
    """The fastest backend that is at hand for tensors like `query`.

    On CPU torch's fused kernel runs bfloat16 at float32 speed, so explicit products win there by 2-3x up to
    thousands of tokens. On Hopper and later cuDNN is ahead of the flash kernel that torch ships.
    """
    device = query.device.type
    half = query.dtype in (torch.bfloat16, torch.float16)
    if device == "cpu":
        return "chunked" if half else "sdpa"
    if device != "cuda" or not half:
        return "sdpa"
    if torch.cuda.get_device_capability(query.device)[0] < 9:
        return "sdpa" if masked or unavailable("flash2", device) else "flash2"
    return "sdpa_cudnn" if masked or unavailable("flash3", device) else "flash3"


def unavailable(backend: str, device_type: str, *, masked: bool = False) -> str:
    """Why `backend` cannot run on this kind of device, or '' where it can."""
    if backend not in BACKENDS:
        return f"the backends are {', '.join(BACKENDS)}"
    if masked and backend in _WITHOUT_LENGTHS:
        return "it takes no key lengths"
    if backend in _FLASH_MODULES:
        if not _importable(_FLASH_MODULES[backend]):
            return f"{_FLASH_MODULES[backend]} is not installed"
        return "" if device_type == "cuda" else "it needs a CUDA device"
    if backend in ("sdpa_cudnn", "sdpa_efficient") and device_type != "cuda":
        return "it needs a CUDA device"
    return ""


def available(device_type: str, *, masked: bool = False) -> list[str]:
    """The backends that can be named on this kind of device."""
    return [name for name in BACKENDS if not unavailable(name, device_type, masked=masked)]


_Function = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]


def _function(backend: str) -> _Function:
    if backend in _FLASH_MODULES:
        return _flash(_FLASH_MODULES[backend])
    return {"math": _math, "chunked": _chunked, "sdpa": _sdpa()}.get(backend) or _sdpa(_SDPA[backend])


def _math(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """The plain twin of all the others: every product written out, softmax in at least float32."""
    scores = torch.einsum("bnkd,bmkd->bknm", query * query.shape[-1] ** -0.5, key)
    if mask is not None:
        scores = scores.masked_fill(~mask[:, None, None, :], float("-inf"))
    wide = torch.promote_types(scores.dtype, torch.float32)
    return torch.einsum("bknm,bmkd->bnkd", scores.softmax(-1, dtype=wide).to(value.dtype), value)


def _chunked(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """Batched matrix products over chunks of queries; memory O(chunk * M), in the backward pass too."""
    batch, num_keys, heads = key.shape[:3]
    q, k, v = (
        rearrange(tensor, "b n k d -> (b k) n d") for tensor in (query * query.shape[-1] ** -0.5, key, value)
    )
    bias = None
    if mask is not None:
        bias = torch.zeros(mask.shape, dtype=q.dtype, device=q.device).masked_fill(~mask, float("-inf"))
        bias = bias.repeat_interleave(heads, dim=0)[:, None, :]
    rows = max(64, CHUNK_NUMBERS // (batch * heads * num_keys))
    if rows >= q.shape[1]:
        out = _rows(q, k, v, bias)
    else:
        # Recomputing a chunk's scores in the backward pass is what keeps them from all being alive at once.
        chunks = [checkpoint(_rows, part, k, v, bias, use_reentrant=False) for part in q.split(rows, dim=1)]
        out = torch.cat(chunks, dim=1)
    return rearrange(out, "(b k) n d -> b n k d", b=batch)


def _rows(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> Tensor:
    scores = torch.bmm(query, key.transpose(1, 2))
    if bias is not None:
        scores = scores + bias
    return torch.bmm(scores.softmax(-1), value)


def _sdpa(kernel: SDPBackend | None = None) -> _Function:
    def run(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        q, k, v = (rearrange(tensor, "b n k d -> b k n d") for tensor in (query, key, value))
        attn_mask = None if mask is None else mask[:, None, None, :]
        if kernel is None:
            out = F.scaled_dot_product_attention(q, k, v, attn_mask)
        else:
            with sdpa_kernel(kernel):
                out = F.scaled_dot_product_attention(q, k, v, attn_mask)
        return rearrange(out, "b k n d -> b n k d")

    return run


def _flash(module: str) -> _Function:
    def run(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        out = importlib.import_module(module).flash_attn_func(query, key, value)
        return out[0] if isinstance(out, tuple) else out  # some releases also return the log-sum-exp

    return run


def _key_mask(lengths: Tensor, num_keys: int) -> Tensor:
    """(B, M) bool, true at valid keys; never empty, so that no softmax runs over nothing."""
    return torch.arange(num_keys, device=lengths.device) < lengths.clamp(min=1)[:, None]


def _importable(module: str) -> bool:
    """Whether `module` exists; `flash_attn` alone says nothing: flash-attn 4 installs only a sub-package."""
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False
