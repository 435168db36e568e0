"""Activation checkpointing: which parts of a block the backward pass recomputes instead of keeping.

A block's saved tensors are most of the memory of training (about 34 D bytes a token and block in bf16,
arXiv:2205.05198). `full` keeps only a block's input, for a third more arithmetic; `selective` also keeps
the outputs of matrix products and of attention, which are costly, for next to none (Sec. 5 there).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
)

from core.engine.config import EngineConfig

aten = torch.ops.aten
_PRODUCTS = {aten.mm.default, aten.addmm.default, aten._scaled_mm.default}
_ATTENTION = {
    aten._scaled_dot_product_flash_attention.default,
    aten._scaled_dot_product_flash_attention_for_cpu.default,
    aten._scaled_dot_product_efficient_attention.default,
    aten._scaled_dot_product_cudnn_attention.default,
}
_LIBRARIES = ("flash_attn", "flash_attn_3", "longtake_attention")  # whose operations are all attention


def checkpoint_blocks(blocks: Iterable[nn.Module], config: EngineConfig) -> None:
    """Make blocks recompute what `config.activation_checkpointing` says; results stay bitwise the same.

    Call it before `Engine`. Every block is one unit: its inputs are kept.
    """
    mode = config.activation_checkpointing
    for index, block in enumerate(blocks):
        if mode in ("full", "selective") or (mode == "every_k" and index % config.checkpoint_every == 0):
            options: dict[str, Any] = {"context_fn": _selective_contexts} if mode == "selective" else {}
            forward = _to_the_end(block.forward) if config.frees_in_block else block.forward
            block.forward = _recomputed(forward, options)


def _recomputed(forward: Any, options: dict[str, Any]) -> Any:
    """Return a function, not a `partial`, which torch.compile would silently leave uncompiled."""

    def checkpointed(*inputs: Any) -> Any:
        return checkpoint(forward, *inputs, use_reentrant=False, **options)

    return checkpointed


def _to_the_end(forward: Any) -> Any:
    """Return a block's forward that is recomputed at once when its backward pass begins, and all of it.

    ZeRO-3 gathers a layer's weights when the layer's own backward pass begins, and would free them again if
    only then the block, and this layer with it, were recomputed. Checkpointing stops at the last tensor that
    is needed, which could leave the last layer's weights as gathered as they were.
    """

    def to_the_end(*inputs: Any) -> Any:
        out = forward(*inputs)
        return _End.apply(*out) if isinstance(out, tuple) else _End.apply(out)

    return to_the_end


class _End(torch.autograd.Function):
    """Passes on what a block returns; its backward pass asks for it, and so for all of the block."""

    @staticmethod
    def forward(ctx: Any, *outputs: Any) -> Any:
        same = tuple(out.view_as(out) if isinstance(out, Tensor) else out for out in outputs)
        ctx.save_for_backward(*(out for out in outputs if isinstance(out, Tensor)))
        return same if len(same) > 1 else same[0]

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        assert ctx.saved_tensors is not None  # which recomputes them
        return gradients


def _selective_contexts() -> Any:
    return create_selective_checkpoint_contexts(_policy)


def _policy(context: Any, operation: Any, *arguments: Any, **options: Any) -> CheckpointPolicy:
    """Keep products with weights and attention's output; of explicit attention not its N x N scores."""
    keep = operation in _PRODUCTS or operation in _ATTENTION or operation.namespace in _LIBRARIES
    if operation is aten.bmm.default:
        keep = _is_smaller_than_inputs(*arguments)
    return CheckpointPolicy.MUST_SAVE if keep else CheckpointPolicy.PREFER_RECOMPUTE


def _is_smaller_than_inputs(left: Tensor, right: Tensor) -> bool:
    """Return whether (b, n, m) x (b, m, d) is smaller than its larger input: weighted values, not scores."""
    return left.shape[-2] * right.shape[-1] < max(left[0].numel(), right[0].numel())
