"""The least loop that trains the network of `bench engine`, as one would write it by hand.

bf16 weights with fp32 masters, clipping, fused AdamW and an average, by torch's operations on lists.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from core.metrics import hardware

LR, CLIPPING, DECAY = 1e-4, 1.0, 0.9999


def seconds_of_steps(network: nn.Module, loss: Callable[[nn.Module], Tensor], steps: int) -> list[float]:
    """Train the network, which is on its device; return the seconds of each step."""
    weights: list[Tensor] = list(network.bfloat16().parameters())
    device = weights[0].device
    masters = [p.detach().float().requires_grad_() for p in weights]
    average = [master.detach().clone() for master in masters]
    optimizer = torch.optim.AdamW(masters, lr=LR, fused=True)
    found = []
    for _ in range(steps):
        started = time.perf_counter()
        loss(network).backward()
        for master, p in zip(masters, weights, strict=True):
            master.grad, p.grad = None if p.grad is None else p.grad.float(), None
        nn.utils.clip_grad_norm_(masters, CLIPPING)
        optimizer.step()
        with torch.no_grad():
            torch._foreach_copy_(weights, masters)
            torch._foreach_lerp_(average, masters, 1 - DECAY)
        hardware.wait(device)
        found.append(time.perf_counter() - started)
    return found
