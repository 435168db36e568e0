"""Accumulate bf16 gradients in fp32 over the micro-steps of a step, for ZeRO stage 1.

Stages 2 and 3 add micro-steps up in fp32 partitions themselves. At stage 1 DeepSpeed leaves the sum to
autograd, in bf16, or switches to an optimizer that keeps and measures a whole fp32 gradient on every rank
even for one backward. Here a step of one backward costs nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class MicroStepSum:
    """Moves gradients of finished backward passes to fp32 sums, and puts the sums back before the step."""

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        self._parameters = parameters
        self._sums: list[Tensor] = []
        self._pending = False

    def before_backward(self) -> None:
        """Move what the last backward of this step left in `grad` to the sums."""
        if self._pending:
            self._add()
        self._pending = True

    def before_step(self) -> None:
        """Write the whole step's sum, rounded once, into every `grad`."""
        if self._sums:
            self._add()
            for p, total in zip(self._parameters, self._sums, strict=True):
                p.grad = total.to(p.dtype)
            self._sums = []
        self._pending = False

    @torch.no_grad()
    def _add(self) -> None:
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in self._parameters]
        if self._sums:
            torch._foreach_add_(self._sums, gradients)
        else:
            self._sums = [g.float() for g in gradients]
        for p in self._parameters:
            p.grad = None
