"""AdamW for ZeRO stage 0: every rank holds all fp32 masters. The plain twin of the sharded stages.

DeepSpeed's own stage 0 keeps gradients of several micro-steps in bf16, clips only sometimes, reports no norm
without clipping and never looks for NaN in fp32. This optimizer does what the other stages do: it adds
micro-steps up in fp32, averages over ranks once a step, skips a non-finite step on all ranks alike, and
clips.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


class ReplicatedAdamW(torch.optim.AdamW):
    """AdamW on one flat fp32 master per parameter group, with the attributes DeepSpeed's engine reads.

    flats: the masters.  names, shapes and offsets of what lies where: `layout`, (parameter, flat, offset).
    clip_grad: the largest gradient norm, 0 = any.  overflow: whether the last step was skipped.
    _global_grad_norm: its gradient norm, before clipping.
    """

    def __init__(self, groups: list[dict[str, Any]], *, gradient_clipping: float, **settings: Any) -> None:
        self.flats: list[Tensor] = []
        self.layout: list[tuple[nn.Parameter, int, int]] = []
        self._gradients: list[Tensor] = []
        self.clip_grad = gradient_clipping
        self.overflow = False
        self._global_grad_norm = 0.0
        masters = []
        for index, group in enumerate(groups):
            flat = torch.cat([p.detach().float().flatten() for p in group["params"]])
            self.flats.append(flat.requires_grad_())
            self._gradients.append(torch.zeros_like(flat, requires_grad=False))
            masters.append({**group, "params": [flat]})
            offset = 0
            for p in group["params"]:
                self.layout.append((p, index, offset))
                view = self._gradients[index][offset : offset + p.numel()].view(p.shape)
                p.register_post_accumulate_grad_hook(_Accumulate(view))
                offset += p.numel()
        super().__init__(masters, **settings)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Average the gradients over ranks, then clip and update, or skip (collective: all ranks)."""
        if dist.is_initialized() and dist.get_world_size() > 1:
            for gradient in self._gradients:
                dist.all_reduce(gradient)
                gradient.div_(dist.get_world_size())
        norms = torch.stack([torch.linalg.vector_norm(g, dtype=torch.float64) for g in self._gradients])
        norm = float(torch.linalg.vector_norm(norms))
        self.overflow = not norm < float("inf")
        self._global_grad_norm = float("inf") if self.overflow else norm
        if not self.overflow:
            if 0.0 < self.clip_grad < norm:
                for gradient in self._gradients:
                    gradient.mul_(self.clip_grad / (norm + 1e-6))
            for flat, gradient in zip(self.flats, self._gradients, strict=True):
                flat.grad = gradient
            super().step()
            self.publish()
        for flat, gradient in zip(self.flats, self._gradients, strict=True):
            flat.grad = None
            gradient.zero_()

    @torch.no_grad()
    def publish(self) -> None:
        """Copy the masters into the parameters that the network computes with."""
        for p, flat, offset in self.layout:
            p.copy_(self.flats[flat][offset : offset + p.numel()].view(p.shape))


class _Accumulate:
    """Adds a parameter's gradient to its place in the flat fp32 gradient and frees it."""

    def __init__(self, view: Tensor) -> None:
        self._view = view

    def __call__(self, parameter: Tensor) -> None:
        assert parameter.grad is not None
        self._view.add_(parameter.grad)
        parameter.grad = None
