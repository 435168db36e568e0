"""Chains of discrete steps, of preserved variance, and their noise rates beta_i."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field

import torch
from torch import Tensor

from core.diffusion.paths.path import PathName

STEPS = 1000  # of the published chains, for which rates are stated
LARGEST_RATE = 0.999  # of the cosine chain


@dataclass(frozen=True, eq=False)
class DDPM:
    """The variance-preserving chain of N steps, alpha(t)^2 = prod(1 - beta_i) (Ho et al., arXiv:2006.11239).

    Between the grid times t = (i + 1) / N, log alpha^2 is interpolated linearly. That is the diffusion
    dx = -beta x / 2 dt + sqrt(beta) dw with a rate that is constant over each step, so it has exactly the
    chain's marginals on the grid and is defined for every t. A last step that ends without signal has no such
    rate; there alpha itself is linear.

    table: (N + 1,) float64 log alpha^2 at t = 0, 1/N, ..., 1.
    """

    name: PathName
    table: Tensor
    scales_input: bool = False
    _moved: dict[torch.device, Tensor] = field(default_factory=dict, init=False, repr=False)

    @property
    def num_steps(self) -> int:
        return len(self.table) - 1

    @property
    def first(self) -> float:
        return 1 / self.num_steps

    def alpha(self, t: Tensor) -> Tensor:
        return torch.exp(self._log_alpha_squared(t) / 2).to(t.dtype)

    def sigma(self, t: Tensor) -> Tensor:
        return torch.sqrt(-torch.expm1(self._log_alpha_squared(t))).to(t.dtype)

    def levels(self, t: Tensor) -> tuple[Tensor, Tensor]:
        known = self._log_alpha_squared(t)
        return torch.exp(known / 2).to(t.dtype), torch.sqrt(-torch.expm1(known)).to(t.dtype)

    def time_input(self, t: Tensor) -> Tensor:
        return self.num_steps * t - 1

    def time_of(self, log_ratio: Tensor) -> Tensor:
        steps = self.num_steps
        grid = torch.arange(1, steps + 1, dtype=torch.float64, device=log_ratio.device) / steps
        ratios = torch.log(self.sigma(grid)) - torch.log(self.alpha(grid))
        return grid[torch.searchsorted(ratios, log_ratio).clamp(max=steps - 1)]

    @functools.cached_property
    def _ends_without_signal(self) -> bool:
        return bool(torch.isneginf(self.table[-1]))

    def _log_alpha_squared(self, t: Tensor) -> Tensor:
        place = t.double() * self.num_steps
        index = place.long().clamp(0, self.num_steps - 1)
        below, above = self._ends_on(t.device)[:, index]
        inner = torch.lerp(below, above, place - index)
        if not self._ends_without_signal:
            return inner
        last = self._ends_on(t.device)[0, -1] + 2 * torch.log1p(-(place - index).clamp(max=1))
        return torch.where(index == self.num_steps - 1, last, inner)

    def _ends_on(self, device: torch.device) -> Tensor:
        """Return (2, N), log alpha^2 at the beginning and at the end of every step."""
        if device not in self._moved:
            self._moved[device] = torch.stack([self.table[:-1], self.table[1:]]).to(device)
        return self._moved[device]


def log_alpha_squared(rates: Tensor, *, ends_without_signal: bool = False) -> Tensor:
    """Return (N + 1,) float64 log alpha^2 at t = 0, 1/N, ..., 1 of rates beta_i (N,).

    ends_without_signal: move and stretch alpha, so that its last value is 0 and its first one stays
    (2305.08891, algorithm 1).
    """
    steps = torch.log1p(-rates).cumsum(0)
    if ends_without_signal:
        alpha = torch.exp(steps / 2)
        alpha = (alpha - alpha[-1]) * (alpha[0] / (alpha[0] - alpha[-1]))
        steps = 2 * torch.log(alpha)
    return torch.cat([steps.new_zeros(1), steps])


def betas(name: PathName, num_steps: int = STEPS, first: float = 1e-4, last: float = 0.02) -> Tensor:
    """Return the chain's noise rates beta_i, (num_steps,) float64.

    first, last: of a chain of 1000 steps; with another number N of steps they are multiplied by 1000 / N.
    ddpm_linear: even between them (Ho et al. 2020, section 4).  ddpm_scaled_linear: even square roots (latent
    diffusion, 2112.10752).  ddpm_sigmoid: by a sigmoid over [-6, 6] (GeoDiff, 2203.02923).
    ddpm_cosine: Nichol and Dhariwal, arXiv:2102.09672, eq. 17, each rate at most 0.999.
    """
    scale = STEPS / num_steps
    ends = scale * first, scale * last
    match name:
        case "ddpm_linear":
            return torch.linspace(*ends, num_steps, dtype=torch.float64)
        case "ddpm_scaled_linear":
            roots = torch.linspace(ends[0] ** 0.5, ends[1] ** 0.5, num_steps, dtype=torch.float64)
            return roots**2
        case "ddpm_sigmoid":
            rise = torch.sigmoid(torch.linspace(-6, 6, num_steps, dtype=torch.float64))
            return rise * (ends[1] - ends[0]) + ends[0]
        case "ddpm_cosine":
            t = torch.arange(num_steps + 1, dtype=torch.float64) / num_steps
            squared = torch.cos((t + 0.008) / 1.008 * torch.pi / 2) ** 2
            return (1 - squared[1:] / squared[:-1]).clamp(max=LARGEST_RATE)
        case _:
            raise ValueError(f"{name} has no rates of its own")
