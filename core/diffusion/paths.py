"""Paths from data to noise: x_t = alpha(t) x_0 + sigma(t) noise, t = 0 is data and t = 1 is noise."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

PathName = Literal["rectified_flow", "ddpm_linear", "ddpm_cosine"]
DDPM_STEPS = 1000


class Path(Protocol):
    """A path: alpha, sigma and time_input take times in [0, 1] and keep their shape and dtype.

    num_steps: N of a path that is trained on the grid t = (i + 1) / N, or None where t is continuous.
    """

    @property
    def name(self) -> PathName: ...
    @property
    def num_steps(self) -> int | None: ...
    def alpha(self, t: Tensor) -> Tensor: ...
    def sigma(self, t: Tensor) -> Tensor: ...
    def time_input(self, t: Tensor) -> Tensor:
        """Return the network's time input for t."""
        ...


@dataclass(frozen=True)
class RectifiedFlow:
    """The straight line alpha = 1 - t, sigma = t (Liu et al. 2209.03003; Lipman et al. 2210.02747)."""

    name: PathName = "rectified_flow"
    num_steps: None = None

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - t

    def sigma(self, t: Tensor) -> Tensor:
        return t

    def time_input(self, t: Tensor) -> Tensor:
        return 1000 * t


@dataclass(frozen=True)
class DDPM:
    """The variance-preserving chain of N steps, alpha(t)^2 = prod(1 - beta_i) (Ho et al., arXiv:2006.11239).

    Between the grid times t = (i + 1) / N, log alpha^2 is interpolated linearly. That is the diffusion
    dx = -beta x / 2 dt + sqrt(beta) dw with a rate that is constant over each step, so it has exactly the
    chain's marginals on the grid and is defined for every t.
    """

    name: PathName
    num_steps: int = DDPM_STEPS

    def alpha(self, t: Tensor) -> Tensor:
        return torch.exp(self._log_alpha_squared(t) / 2).to(t.dtype)

    def sigma(self, t: Tensor) -> Tensor:
        return torch.sqrt(-torch.expm1(self._log_alpha_squared(t))).to(t.dtype)

    def time_input(self, t: Tensor) -> Tensor:
        return self.num_steps * t - 1

    def _log_alpha_squared(self, t: Tensor) -> Tensor:
        table = _log_alpha_squared_table(self.name, self.num_steps, t.device)
        place = t.double() * self.num_steps
        index = place.long().clamp(0, self.num_steps - 1)
        return torch.lerp(table[index], table[index + 1], place - index)


def betas(name: PathName, num_steps: int = DDPM_STEPS) -> Tensor:
    """Return the chain's noise rates beta_i, (num_steps,) float64.

    linear: 1e-4 to 0.02 over 1000 steps (Ho et al. 2020, section 4).
    cosine: Nichol and Dhariwal, arXiv:2102.09672, eq. 17, each rate at most 0.999.
    """
    if name == "ddpm_linear":
        scale = DDPM_STEPS / num_steps
        return torch.linspace(scale * 1e-4, scale * 0.02, num_steps, dtype=torch.float64)
    t = torch.arange(num_steps + 1, dtype=torch.float64) / num_steps
    alpha_squared = torch.cos((t + 0.008) / 1.008 * torch.pi / 2) ** 2
    return (1 - alpha_squared[1:] / alpha_squared[:-1]).clamp(max=0.999)


def make_path(name: PathName) -> Path:
    """Return the path of that name, with 1000 steps where it is a chain."""
    return RectifiedFlow() if name == "rectified_flow" else DDPM(name)


@functools.cache
def _log_alpha_squared_table(name: PathName, num_steps: int, device: torch.device) -> Tensor:
    """Return (num_steps + 1,) float64 log alpha^2 at t = 0, 1/N, ..., 1."""
    steps = torch.log1p(-betas(name, num_steps))
    return torch.cat([steps.new_zeros(1), steps.cumsum(0)]).to(device)
