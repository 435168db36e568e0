"""Count a pass on a CPU with its products left out: matrices of the right shape, and nothing in them.

Products are nearly all of a pass's time. Of the rest, what is computed number by number, or summed up, from
such a matrix is left out too. All other operations compute, on memory that is there: so the counts are those
of the computed pass to the byte, and what is computed from numbers alone (tables of positions) is right.
Torch's compiler, which fake tensors would load in 2 s, and torch's meta device too, stays out.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Sequence
from functools import reduce
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from core.memory.counting import LiveBytes, Uncompiled

aten = torch.ops.aten


class Undrawn(Uncompiled):
    """Within the block, weights are not drawn: that takes longer than all else of a pass without products."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return args[0] if func in _DRAWN else func(*args, **(kwargs or {}))


class OutlinedBytes(LiveBytes):
    """Live bytes of a pass whose products are not computed."""

    building, computes = Undrawn, False

    def __init__(self, besides: Iterable[Tensor] = ()) -> None:
        super().__init__(besides)
        self._empty: set[int] = set()  # storages with nothing in them

    def result(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Return the memory of what is not computed, and what any other operation gives."""
        has_empty = self._has_empty(args)
        if (outline := _OUTLINES.get(func)) is not None:
            result, has_empty = outline(*args, **kwargs), True
        elif has_empty and (shape := _SHAPED.get(func)) is not None:
            result = shape(*args, **kwargs)
        else:
            result = None
        if result is None:
            result = func(*args, **kwargs)
        for storage in _storages(result) if has_empty else ():
            if storage._cdata not in self._empty:
                self._empty.add(storage._cdata)
                weakref.finalize(storage, self._empty.discard, storage._cdata)
        return result

    def _has_empty(self, args: Any) -> bool:
        return any(storage._cdata in self._empty for storage in _storages(args))


def _storages(values: Any) -> list[Any]:
    """Return the memory of the tensors among some values."""
    return [leaf.untyped_storage() for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]


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


def _by_number(*operands: Any, **options: Any) -> Tensor | None:
    """Return the result of an operation number by number; None where strides would have to be looked into."""
    tensors = [operand for operand in operands if isinstance(operand, Tensor)]
    shape = max(tensors, key=Tensor.numel).shape
    for tensor in tensors:
        sizes = zip(reversed(tensor.shape), reversed(shape), strict=False)
        is_spread = tensor.dim() <= len(shape) and all(size in (1, whole) for size, whole in sizes)
        if not is_spread or (tensor.shape == shape and not tensor.is_contiguous()):
            return None
    deciding = [tensor for tensor in tensors if tensor.dim()] or tensors
    dtype = options.get("dtype") or reduce(torch.promote_types, (tensor.dtype for tensor in deciding))
    return torch.empty(shape, dtype=dtype)


def _loss_backward(gradient: Tensor, values: Tensor, *others: Any) -> Tensor | None:
    return _by_number(values, *others)


def _sum(values: Tensor, dims: Sequence[int], keeps: bool = False, **options: Any) -> Tensor | None:
    if not (values.is_contiguous() and dims):
        return None
    summed = {dim % values.dim() for dim in dims}
    sizes = [1 if d in summed else n for d, n in enumerate(values.shape) if keeps or d not in summed]
    return torch.empty(sizes, dtype=options.get("dtype") or values.dtype)


def _cat(tensors: Sequence[Tensor], dim: int = 0) -> Tensor | None:
    first, is_one_type = tensors[0], len({tensor.dtype for tensor in tensors}) == 1
    if not (is_one_type and all(t.is_contiguous() and t.dim() == first.dim() for t in tensors)):
        return None
    sizes = list(first.shape)
    sizes[dim] = sum(tensor.shape[dim] for tensor in tensors)
    return first.new_empty(sizes)


def _stack(tensors: Sequence[Tensor], dim: int = 0) -> Tensor | None:
    if not all(tensor.is_contiguous() for tensor in tensors):
        return None
    sizes = list(tensors[0].shape)
    sizes.insert(dim if dim >= 0 else dim + len(sizes) + 1, len(tensors))
    return tensors[0].new_empty(sizes)


def _clone(values: Tensor, memory_format: torch.memory_format | None = None) -> Tensor | None:
    if memory_format is not torch.contiguous_format and not values.is_contiguous():
        return None
    return values.new_empty(values.shape)


def _norm_backward(
    gradient: Tensor,
    values: Tensor,
    _sizes: Any,
    _mean: Any,
    _scale: Any,
    *affine: Tensor | None,
) -> tuple[Tensor | None, ...] | None:
    *parameters, wanted = affine
    if not values.is_contiguous():
        return None
    of = (values, *parameters)
    return tuple(
        torch.empty_like(tensor) if asked and isinstance(tensor, Tensor) else None
        for tensor, asked in zip(of, wanted, strict=True)  # type: ignore[arg-type]
    )


_DRAWN = {aten.uniform_.default, aten.normal_.default}
_OUTLINES: dict[Any, Callable[..., Any]] = {
    aten.mm.default: _mm,
    aten.addmm.default: _addmm,
    aten.bmm.default: _bmm,
    aten._scaled_dot_product_flash_attention_for_cpu.default: _attention,
    aten._scaled_dot_product_flash_attention_for_cpu_backward.default: _attention_backward,
}
# Operations that are left out where an operand is empty; they return None where they are to compute.
_SHAPED: dict[Any, Callable[..., Any]] = {
    **dict.fromkeys(
        (
            *(aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.mul.Scalar, aten.div.Tensor),
            *(aten.div.Scalar, aten.addcmul.default, aten.neg.default, aten._to_copy.default),
            *(aten.gelu.default, aten.gelu_backward.default),
            *(aten.silu.default, aten.silu_backward.default),
        ),
        _by_number,
    ),
    aten.mse_loss_backward.default: _loss_backward,
    aten.sum.dim_IntList: _sum,
    aten.cat.default: _cat,
    aten.stack.default: _stack,
    aten.clone.default: _clone,
    aten.native_layer_norm_backward.default: _norm_backward,
}
