"""The input of a training step: noised data, and the target that the network is to predict."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from core.batch import Condition

Model = Callable[[Tensor, Tensor, Condition], Tensor]


@dataclass(frozen=True)
class NoisyBatch:
    """The network's input and its target for clean data: a function of data and draws alone.

    clean, x_t, target: (B, C, T, H, W) float32. Where a kernel made them and the loss needs no more, clean is
    None and x_t in the dtype that the network computes in.  time: (B,) in [0, 1]; time_input: the form of it
    that the network gets.  alpha, sigma: the path's levels, (B, 1, 1, 1, 1).  weight: (B,) of the squared
    error; None is 1.
    With levels of frames time and weight are (B, T), time_input (B, T / unit), alpha and sigma
    (B, 1, T, 1, 1), and frames at time 0 have the target 0, which does not count.
    noise: that of x_t, and end: (B,) an earlier time, of objectives that compare two times; else None.
    """

    clean: Tensor | None
    x_t: Tensor
    target: Tensor
    time: Tensor
    time_input: Tensor
    alpha: Tensor
    sigma: Tensor
    weight: Tensor | None
    condition: Condition
    noise: Tensor | None = None
    end: Tensor | None = None

    @property
    def x0(self) -> Tensor:
        """The clean data; ValueError where they were not kept."""
        if self.clean is None:
            raise ValueError("the clean data of this batch were not kept: its loss was not to need them")
        return self.clean


def squared_error(output: Tensor, target: Tensor) -> Tensor:
    """Return (output - target)^2 of equal shapes, elementwise: one operation forward, and one backward."""
    return torch.nn.functional.mse_loss(output, target, reduction="none")
