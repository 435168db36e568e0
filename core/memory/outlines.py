"""Count a pass on a CPU with its products left out: matrices of the right shape, and nothing in them.

Products are nearly all of a pass's time. What is left computes on memory that is there, so the counts are
those of the computed pass to the byte, without torch's compiler, which fake tensors would load in 2 s.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from core.memory.counting import LiveBytes, Uncompiled

aten = torch.ops.aten


class Undrawn(Uncompiled):
    """Within the block, weights are not drawn: that takes longer than all else of a pass without products."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return args[0] if func in _DRAWN else func(*args, **(kwargs or {}))


class OutlinedBytes(LiveBytes):
    """Live bytes of a pass whose products are not computed."""

    building = Undrawn

    def result(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Return a product's memory, and what any other operation gives."""
        outline = _OUTLINES.get(func)
        return func(*args, **kwargs) if outline is None else outline(*args, **kwargs)


def _mm(left: Tensor, right: Tensor, **_: Any) -> Tensor:
    return left.new_empty((left.shape[0], right.shape[1]))


def _addmm(bias: Tensor, left: Tensor, right: Tensor, **_: Any) -> Tensor:
    return _mm(left, right)


def _bmm(left: Tensor, right: Tensor, **_: Any) -> Tensor:
    return left.new_empty((*left.shape[:2], right.shape[2]))


def _attention(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
    """Return the output, and the logarithms of sums that the kernel keeps."""
    batch, heads, tokens, _width = query.shape
    sums = query.new_empty((batch, tokens, heads), dtype=torch.float32).transpose(1, 2)
    return _by_tokens(query, value.shape[-1]), sums


def _attention_backward(
    gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any
) -> tuple[Tensor, Tensor, Tensor]:
    return tuple(_by_tokens(tensor, tensor.shape[-1]) for tensor in (query, key, value))  # type: ignore[return-value]


def _by_tokens(like: Tensor, width: int) -> Tensor:
    """Return a tensor (B, K, N, width) in which a token's heads lie side by side."""
    batch, heads, tokens, _ = like.shape
    return like.new_empty((batch, tokens, heads, width)).transpose(1, 2)


_DRAWN = {aten.uniform_.default, aten.normal_.default}
_OUTLINES: dict[Any, Callable[..., Any]] = {
    aten.mm.default: _mm,
    aten.addmm.default: _addmm,
    aten.bmm.default: _bmm,
    aten._scaled_dot_product_flash_attention_for_cpu.default: _attention,
    aten._scaled_dot_product_flash_attention_for_cpu_backward.default: _attention_backward,
}
