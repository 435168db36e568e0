"""Parameters that belong to an objective: trained with the network, and of no use without the loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

Own = Callable[..., Tensor]
"""Calls a part of an objective's own parameters, by its name and with its inputs."""


class OwnParameters(nn.Module):
    """The parts of an objective that have parameters, as one network."""

    def __init__(self, parts: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.parts = nn.ModuleDict(parts)

    def forward(self, part: str, *inputs: Any) -> Tensor:
        """Return the output of one part."""
        return self.parts[part](*inputs)


class LogVariance(nn.Module):
    """The logarithm of a loss's size at each level of noise, learned as in EDM2 (2312.02696, eq. 21).

    A linear function of 128 cosines of log-SNR / 8, of random frequencies and phases that stay as they are:
    for paths of EDM that is log(sigma) / 4 up to its sign, the feature of the paper. 0 at first.
    """

    FEATURES = 128
    FURTHEST = 40.0  # a log-SNR beyond it is taken for it, infinite ones at the ends of a path too
    frequency: Tensor
    phase: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("frequency", 2 * torch.pi * torch.randn(self.FEATURES))
        self.register_buffer("phase", 2 * torch.pi * torch.rand(self.FEATURES))
        self.linear = nn.Linear(self.FEATURES, 1, bias=False)
        nn.init.zeros_(self.linear.weight)

    def forward(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        """Return (B,) from levels (B,)."""
        log_snr = 2 * (alpha.float().log() - sigma.float().log())
        place = log_snr.clamp(-self.FURTHEST, self.FURTHEST) / 8
        features = (place[:, None] * self.frequency + self.phase).cos() * 2**0.5
        return self.linear(features)[:, 0] / self.FEATURES**0.5
