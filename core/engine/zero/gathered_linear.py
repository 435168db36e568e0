"""The linear layer of a network at ZeRO stage 3: one product with the bias in it, and no hold on weights.

Stage 3 gathers a weight before its layer and frees it after. Torch's own linear layer keeps a transposed view
of the gathered weight for the backward pass, and so all weights until then. DeepSpeed puts another in its
place, for every network of the process, which keeps the parameter, to be gathered again, but adds the bias in
a pass of its own over the output. The layer here keeps the parameter, adds the bias in the product, and is
that of the network under training alone.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class GatheredLinear(nn.Linear):
    """A linear layer that frees its weight between the passes."""

    def forward(self, input: Tensor) -> Tensor:
        out: Tensor = _Linear.apply(input, self.weight, self.bias)
        return out


def use_gathered_linear(network: nn.Module) -> None:
    """Turn the linear layers of `network` to this kind in place; parameters keep their names.

    A subclass of nn.Linear keeps what it adds: where it calls nn.Linear's forward it now calls this one's.
    """
    kinds: dict[type[nn.Linear], type[nn.Linear]] = {nn.Linear: GatheredLinear}
    for module in network.modules():
        if isinstance(module, nn.Linear) and not isinstance(module, GatheredLinear):
            kind = type(module)
            if kind not in kinds:
                kinds[kind] = type(kind.__name__, (kind, GatheredLinear), {})
            module.__class__ = kinds[kind]


class _Linear(torch.autograd.Function):
    """x W^T + b of x (..., K) and W (M, K)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)  # a parameter is kept itself, whose content comes and goes
        rows = x.reshape(-1, x.shape[-1])
        out = rows @ weight.t() if bias is None else torch.addmm(bias, rows, weight.t())
        return out.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors  # read once: activation checkpointing computes them again
        of_x, of_weight, of_bias = ctx.needs_input_grad
        rows = gradients[0].reshape(-1, gradients[0].shape[-1])
        return (
            (rows @ weight).view(x.shape) if of_x else None,
            rows.t() @ x.reshape(-1, x.shape[-1]) if of_weight else None,
            rows.sum(0) if of_bias else None,
        )
