"""Activation checkpointing: what of a block the backward pass computes again instead of keeping.

A block's saved tensors are most of the memory of training (about 34 D bytes a token and block in bf16,
arXiv:2205.05198). `full` keeps a block's input alone, for a third more arithmetic; `selective` also keeps
what is costly to compute, the outputs of matrix products and of attention, for next to none (Sec. 5 there).
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
    set_checkpoint_early_stop,
)

from core.engine_config import EngineConfig

aten = torch.ops.aten
_PRODUCTS = {aten.mm.default, aten.addmm.default}
_ATTENTION = {
    aten._scaled_dot_product_flash_attention.default,
    aten._scaled_dot_product_flash_attention_for_cpu.default,
    aten._scaled_dot_product_efficient_attention.default,
    aten._scaled_dot_product_cudnn_attention.default,
}


def checkpoint_blocks(blocks: Iterable[nn.Module], config: EngineConfig) -> None:
    """Have blocks recompute what `config.activation_checkpointing` says; results stay bitwise the same.

    Call it before `Engine`. Every block is one unit: its inputs are kept.
    """
    mode = config.activation_checkpointing
    for index, block in enumerate(blocks):
        if mode in ("full", "selective") or (mode == "every_k" and index % config.checkpoint_every == 0):
            forward = functools.partial(_run, block.forward, mode == "selective", config.zero_stage == 3)
            block.forward = forward


def _run(forward: Any, selective: bool, whole: bool, *inputs: Any) -> Any:
    """`whole`: recompute to the end, where ZeRO-3 lets go of the weights it gathered for each layer."""
    options: dict[str, Any] = {"context_fn": _selective_contexts} if selective else {}
    with set_checkpoint_early_stop(not whole):
        return checkpoint(forward, *inputs, use_reentrant=False, **options)


def _selective_contexts() -> Any:
    return create_selective_checkpoint_contexts(_policy)


def _policy(context: Any, operation: Any, *arguments: Any, **options: Any) -> CheckpointPolicy:
    """Keep products with weights and attention's output; of explicit attention not its N x N scores."""
    keep = operation in _PRODUCTS or operation in _ATTENTION
    if operation is aten.bmm.default:
        keep = _is_smaller_than_inputs(*arguments)
    return CheckpointPolicy.MUST_SAVE if keep else CheckpointPolicy.PREFER_RECOMPUTE


def _is_smaller_than_inputs(left: Tensor, right: Tensor) -> bool:
    """Whether (b, n, m) x (b, m, d) gives less than the larger of them holds: weighted values, not scores."""
    return left.shape[-2] * right.shape[-1] < max(left[0].numel(), right[0].numel())
