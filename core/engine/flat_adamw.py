"""AdamW, or Muon, on one flat fp32 master per parameter group, and the flat gradients beside them.

Every operation runs over flat tensors, one a group, in as few passes over memory as possible. The engines
decide what lies in a flat tensor, and how ranks reduce gradients: `zero/replicated.py`, `fsdp2/sharded.py`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from core.engine.sharded_muon import MuonAdamW

ROW = 128  # fp32 sums of more squares lose digits: over 130 million numbers 1.6 % of the norm (measured)


class FlatAdamW(MuonAdamW):
    """The update of flat masters by flat gradients.

    masters, gradients: flat tensors, one a group.  accumulators: one for each place of a parameter in them.
    clip_grad: the largest gradient norm, 0 = any.  overflow: whether the last step was skipped.
    _global_grad_norm: its gradient norm, before clipping.
    """

    def __init__(
        self,
        groups: list[dict[str, Any]],
        masters: list[Tensor],
        gradients: list[Tensor],
        accumulators: list[Accumulate],
        *,
        gradient_clipping: float,
        **settings: Any,
    ) -> None:
        self.masters, self.gradients, self.accumulators = masters, gradients, accumulators
        self.clip_grad = gradient_clipping
        self.overflow = False
        self._global_grad_norm = 0.0
        own = [{**group, "params": [master]} for group, master in zip(groups, masters, strict=True)]
        super().__init__(own, **settings)

    def finish(self) -> None:
        """End the gradients of this step."""
        for accumulator in self.accumulators:
            accumulator.finish()

    def update(self, norm: float, divisor: float = 1.0) -> None:
        """Clip and update, or skip where the norm is not finite. divisor: of the gradients, beside that."""
        self.overflow = not norm < float("inf")
        self._global_grad_norm = float("inf") if self.overflow else norm
        if self.overflow:
            return
        clipping = self.clip_grad / (norm + 1e-6) if 0.0 < self.clip_grad < norm else 1.0
        for flat, gradient in zip(self.masters, self.gradients, strict=True):
            flat.grad = gradient
        # AdamW's kernel divides while it reads: a pass over the gradients of its own would cost a fifth more.
        divisor = divisor / clipping
        self.grad_scale = None if divisor == 1.0 else self.masters[0].new_full((), divisor)
        super().step()
        for flat in self.masters:
            flat.grad = None


def gradient_norm(gradients: list[Tensor]) -> float:
    """Return the Euclidean norm of several flat tensors to 1e-7: short sums in fp32, sums of these in fp64.

    One that exceeds 1e19 counts as infinite, since the squares of numbers so large do not fit fp32.
    """
    return float(norm_of(gradients))


def norm_of(gradients: list[Tensor]) -> Tensor:
    """Return `gradient_norm` as an fp64 tensor, for which nothing waits."""
    parts = []
    for flat in gradients:
        whole = flat.numel() // ROW * ROW
        parts += [torch.linalg.vector_norm(flat[:whole].view(-1, ROW), dim=1), flat[whole:]]
    return torch.linalg.vector_norm(torch.cat(parts), dtype=torch.float64)


class Accumulate:
    """Adds up a parameter's gradients of a step in its place in the flat fp32 gradient, and frees them."""

    def __init__(self, view: Tensor) -> None:
        self._view = view
        self._used = False

    def __call__(self, parameter: nn.Parameter) -> None:
        assert parameter.grad is not None
        self.add(parameter.grad)
        parameter.grad = None

    def add(self, gradient: Tensor) -> None:
        """Add a gradient; the first one of a step overwrites what the last step left."""
        if self._used:
            self._view.add_(gradient)
        else:
            self._view.copy_(gradient)
        self._used = True

    def forget(self) -> None:
        """Forget the gradients of this step."""
        self._used = False

    def finish(self) -> None:
        """End the step: zero the places without a gradient; the next step overwrites the others."""
        if not self._used:
            self._view.zero_()
        self._used = False
