"""Attention behind one function with named backends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, cast, get_args

import torch
from torch import Tensor

from core.errors import UserError
from models.attention import backends
from models.attention.backends import FLASH_MODULES

Backend = Literal[
    "auto",
    "math",
    "chunked",
    "sdpa",
    "sdpa_flash",
    "sdpa_cudnn",
    "sdpa_efficient",
    "flash2",
    "flash3",
    "flash4",
]
BACKENDS: tuple[str, ...] = get_args(Backend)

SHORTEST, LONGEST = 64, 8192  # tokens; beyond them the order of the backends hardly changes

# cuDNN's takes a mask, but not one key alone, which is what a sample without text has.
_WITHOUT_LENGTHS = ("sdpa_flash", "sdpa_cudnn", *FLASH_MODULES)
_FLASH_OF = {8: "flash2", 9: "flash3"}  # by the GPU's generation; the third runs on Hopper alone


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    backend: Backend = "auto",
    lengths: Tensor | None = None,
    sizes: Sequence[int] | None = None,
) -> Tensor:
    """Compute scaled dot-product attention, softmax(q k^T / sqrt(Dh)) v (Eq. 1, arXiv:1706.03762).

    query: (B, N, K, Dh).  key, value: (B, M, K, Dh).  lengths: (B,) int, how many keys of each sample are
    valid; a sample with none gets zeros.  sizes: packed sequences, B = 1: tokens of the samples that lie one
    after another along N = M; each attends to itself.  Returns (B, N, K, Dh) in the dtype of `query`.
    Raises UserError where a named backend cannot do this; `auto` always finds one that can.
    """
    if backend == "auto":
        backend = choose(query, masked=lengths is not None)
    elif reason := unavailable(backend, query.device.type, masked=lengths is not None):
        raise UserError("attention", backend, f"another backend, since {reason}")
    if sizes is not None:
        if lengths is not None or query.shape[:2] != (1, sum(sizes)) or key.shape != query.shape:
            raise ValueError(f"sizes {tuple(sizes)} do not fit query {tuple(query.shape)} without lengths")
        return backends.packed(backend, query, key, value, sizes)
    mask = None if lengths is None else _key_mask(lengths, key.shape[1])[:, None, None]
    out = backends.function(backend)(query, key, value, mask)
    return out if lengths is None else out * (lengths > 0).to(out.dtype)[:, None, None, None]


def choose(query: Tensor, *, masked: bool = False) -> Backend:
    """Return the fastest backend by rule for tensors like `query`; a training run measures (`choice.py`).

    On CPU torch's fused kernel runs bfloat16 at float32 speed, so explicit products win there by 2-3x up to
    thousands of tokens. On CUDA torch chooses well by itself (on Hopper cuDNN's kernel, where that can), and
    never a kernel that refuses.
    """
    device = query.device.type
    half = query.dtype in (torch.bfloat16, torch.float16)
    if device == "cpu":
        return "chunked" if half else "sdpa"
    if device != "cuda" or not half or masked:
        return "sdpa"
    flash = _FLASH_OF.get(torch.cuda.get_device_capability(query.device)[0])
    return "sdpa" if flash is None or unavailable(flash, device) else cast(Backend, flash)


def bucket(tokens: int) -> int:
    """Return the length that stands for `tokens`: a power of two, from SHORTEST to LONGEST."""
    return min(max(SHORTEST, 1 << (tokens - 1).bit_length()), LONGEST)


def unavailable(backend: str, device_type: str, *, masked: bool = False) -> str:
    """Return why `backend` cannot run on this kind of device, or '' where it can."""
    if backend not in BACKENDS:
        return f"the backends are {', '.join(BACKENDS)}"
    if masked and backend in _WITHOUT_LENGTHS:
        return "it takes no key lengths"
    if backend in ("sdpa_cudnn", "sdpa_efficient", *FLASH_MODULES) and device_type != "cuda":
        return "it needs a CUDA device"
    return backends.library(FLASH_MODULES[backend])[1] if backend in FLASH_MODULES else ""


def available(device_type: str, *, masked: bool = False) -> list[str]:
    """Return the backends that can be named on this kind of device."""
    return [name for name in BACKENDS if not unavailable(name, device_type, masked=masked)]


def _key_mask(lengths: Tensor, num_keys: int) -> Tensor:
    """Return (B, M) bool, true at valid keys; never empty, so that no softmax runs over nothing."""
    return torch.arange(num_keys, device=lengths.device) < lengths.clamp(min=1)[:, None]
