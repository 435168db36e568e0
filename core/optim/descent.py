"""Train a small network that serves another job: AdamW, a warm-up, and a linear decay to 0."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from core.progress import Progress

WARM_UP = 50  # steps


def descend(
    network: nn.Module,
    loss_of: Callable[[int], Tensor],
    *,
    steps: int,
    learning_rate: float,
    weight_decay: float,
    what: str,
) -> None:
    """Take `steps` steps.

    loss_of: the loss of a step, which is counted from 0.  what: the name of the work, for people.
    """
    optimizer = torch.optim.AdamW(network.parameters(), lr=learning_rate, weight_decay=weight_decay)
    with Progress(steps, what, unit="steps") as progress:
        for step in range(steps):
            loss = loss_of(step)
            rate = min(1, (step + 1) / WARM_UP, 1 - step / steps)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate * rate
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            progress.advance()
