"""A loop without an engine that rounds and adds up as FSDP2 does: bf16 weights, fp32 masters and sums."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from core.optim.groups import OptimizerConfig, parameter_groups


def rounded_norms(
    network: nn.Module,
    losses: Callable[[int], Iterable[Callable[[], Tensor]]],
    steps: int,
    config: OptimizerConfig,
    clipping: float,
) -> list[float]:
    """Train by AdamW in one process; return the norm of each step's gradient before clipping.

    losses: of a step, each calls the network and gives one rank's part of the loss of one micro-step.
    """
    groups = parameter_groups(network, config)
    masters = {n: p.detach().clone() for n, p in network.named_parameters() if p.requires_grad}
    own = [{**group, "params": [masters[name] for name in group["names"]]} for group in groups]
    optimizer, norms = torch.optim.AdamW(own, lr=config.lr, eps=config.eps, fused=True), list[float]()
    for step in range(steps):
        for name, p in network.named_parameters():
            p.data = masters.get(name, p.detach()).bfloat16()
        for master in masters.values():
            master.grad = torch.zeros_like(master)
        for loss in losses(step):
            network.zero_grad()
            loss().backward()  # type: ignore[no-untyped-call]
            for name, p in network.named_parameters():
                if p.grad is not None:
                    masters[name].grad += p.grad.float()
        norms.append(_clip(masters.values(), clipping))
        optimizer.step()
    return norms


def _clip(masters: Iterable[Tensor], clipping: float) -> float:
    """Scale gradients to norm `clipping` at most; return their norm before."""
    gradients = [master.grad for master in masters if master.grad is not None]
    norm = math.sqrt(sum(float(gradient.double().square().sum()) for gradient in gradients))
    for gradient in gradients if norm > clipping else []:
        gradient /= (norm + 1e-6) / clipping  # as AdamW's kernel does it: one rounding
    return norm
