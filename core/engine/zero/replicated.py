"""The optimizer of ZeRO stage 0: every rank holds all fp32 masters. The plain twin of the sharded stages.

DeepSpeed's own stage 0 keeps gradients of several micro-steps in bf16, clips only sometimes, reports no norm
without clipping and never looks for NaN in fp32. This optimizer does what the other stages do: it adds
micro-steps up in fp32, averages over ranks once a step, skips a non-finite step on all ranks alike, and
clips. All of it runs over flat tensors, one a group, and touches each number as seldom as it can.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from core.engine.flat_adamw import Accumulate, FlatAdamW, gradient_norm


class Replicated(FlatAdamW):
    """AdamW, or Muon, on one flat fp32 master per parameter group, with the attributes DeepSpeed reads.

    names, shapes and offsets of what lies where: `layout`, (parameter, flat, offset).
    The parameters become views: of the masters where these have their dtype, else of flat copies.
    """

    def __init__(self, groups: list[dict[str, Any]], *, gradient_clipping: float, **settings: Any) -> None:
        self.layout: list[tuple[nn.Parameter, int, int]] = []
        self._copies: list[Tensor] = []
        masters, gradients, accumulators = [], [], []
        for number, group in enumerate(groups):
            master, gradient, own = self._flatten(group["params"], number)
            masters.append(master)
            gradients.append(gradient)
            accumulators += own
        super().__init__(
            groups, masters, gradients, accumulators, gradient_clipping=gradient_clipping, **settings
        )

    def _flatten(
        self, parameters: list[nn.Parameter], number: int
    ) -> tuple[Tensor, Tensor, list[Accumulate]]:
        """Make the parameters of group `number` views; return master, gradient and their accumulators."""
        flat = torch.cat([p.detach().float().flatten() for p in parameters])
        dtype = parameters[0].dtype
        copy = flat if dtype == flat.dtype else flat.to(dtype)
        gradient, offset, accumulators = torch.zeros_like(flat), 0, []
        for p in parameters:
            place = slice(offset, offset + p.numel())
            self.layout.append((p, number, offset))
            p.data = copy[place].view(p.shape)
            accumulators.append(Accumulate(gradient[place].view(p.shape)))
            p.register_post_accumulate_grad_hook(accumulators[-1])
            offset += p.numel()
        self._copies.append(copy)
        return flat.detach().requires_grad_(), gradient, accumulators

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Average the gradients over ranks, then clip and update, or skip (collective: all ranks)."""
        self.finish()
        ranks = dist.get_world_size() if dist.is_initialized() else 1
        for gradient in self.gradients if ranks > 1 else []:
            dist.all_reduce(gradient)
        self.update(gradient_norm(self.gradients) / ranks, ranks)
        if not self.overflow:
            self.publish()

    @torch.no_grad()
    def publish(self) -> None:
        """Make the parameters that the network computes with follow the masters."""
        for flat, copy in zip(self.masters, self._copies, strict=True):
            if copy.dtype != flat.dtype:
                copy.copy_(flat)
