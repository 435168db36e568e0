"""Paths of constant signal, alpha = 1, whose noise grows far beyond the data."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from core.diffusion.paths.path import PathName

RHO = 7.0  # 2206.00364, table 1


@dataclass(frozen=True)
class Exploding:
    """The variance sigma(t)^2 = g(t)^2 - g(0)^2, with g from sigma_min at t = 0 to sigma_max at t = 1.

    These are the marginals of dx = sqrt(d g^2 / dt) dw from the data on, so that sigma(0) = 0.
    variance_exploding: g = sigma_min (sigma_max / sigma_min)^t (2011.13456, eq. 30-31).
    edm: g^(1/7) is linear in t (2206.00364, eq. 5), so that even times are the steps of that paper.
    Noise below sigma_min is not trained.
    """

    name: PathName
    sigma_min: float
    sigma_max: float
    num_steps: None = None
    scales_input: bool = True

    @property
    def first(self) -> float:
        """Return the time at which sigma is sigma_min."""
        return float(self._time_of_sigma(torch.tensor(self.sigma_min, dtype=torch.float64)))

    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def sigma(self, t: Tensor) -> Tensor:
        # g^2 - g(0)^2 as g(0)^2 (exp(2 log(g / g(0))) - 1), which loses no digits near t = 0
        return (self.sigma_min * torch.sqrt(torch.expm1(2 * self._log_growth(t.double())))).to(t.dtype)

    def levels(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return self.alpha(t), self.sigma(t)

    def time_input(self, t: Tensor) -> Tensor:
        return 1000 * t

    def time_of(self, log_ratio: Tensor) -> Tensor:
        return self._time_of_sigma(log_ratio.double().exp()).clamp(self.first, 1).to(log_ratio.dtype)

    def _log_growth(self, t: Tensor) -> Tensor:
        """Return log(g(t) / g(0))."""
        if self.name == "variance_exploding":
            return t * self._log_range
        return RHO * torch.log1p(t * math.expm1(self._log_range / RHO))

    def _time_of_sigma(self, sigma: Tensor) -> Tensor:
        growth = torch.log1p((sigma / self.sigma_min).square()) / 2
        if self.name == "variance_exploding":
            return growth / self._log_range
        return torch.expm1(growth / RHO) / math.expm1(self._log_range / RHO)

    @property
    def _log_range(self) -> float:
        return math.log(self.sigma_max / self.sigma_min)
