"""The distribution of training times over t, sampled by inverse transform of a keyed uniform draw."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from core.config.settings import setting
from core.diffusion.paths.path import Path
from core.diffusion.time_density import times_by_density
from core.draws import Draws
from core.errors import UserError

CELLS = 4096  # of the stratified uniforms
EDGE = 2.0**-23  # the least distance of a time from the ends of the path, in float32


@dataclass(frozen=True, kw_only=True)
class TimestepConfig:
    kind: Literal["uniform", "logit_normal", "mode", "edm", "laplace", "cauchy", "sech", "file"] = setting(
        "uniform",
        "distribution of t: logit_normal and mode put more weight on the middle; edm (normal), laplace, "
        "cauchy and sech are distributions of log(sigma / alpha), which is minus half the log-SNR, on any"
        " path; file: the density in `density`",
    )
    density: str = setting(
        "",
        "file: text file with the densities of equal parts of [0, 1], from data to noise, one per line, "
        "in any scale; `inspect RUN times=FILE` fits one to a finished run",
        shown="path",
        role="place",
    )
    mean: float = setting(
        0.0, "mean of logit(t), or of log(sigma / alpha); positive means noisier; EDM: -1.2"
    )
    std: float = setting(1.0, "standard deviation, or scale, of the same quantity; EDM: 1.2", low=1e-3)
    mode_scale: float = setting(1.29, "mode: weight of the middle; 0 is uniform", low=-1, high=1.75)
    stratified: bool = setting(
        False,
        "spread the times of a step evenly over the distribution (stratified sampling), with random offsets",
    )
    shift: float = setting(1.0, "shift of times towards noise, for large inputs; 1 is off")
    shift_at: int = setting(
        0,
        "number of latent positions (frames x height x width) to which shift applies; other shapes are "
        "shifted in proportion to the square root of their size relative to it; 0 shifts all shapes alike",
        low=0,
    )

    def __post_init__(self) -> None:
        if self.shift <= 0:
            raise UserError("shift", self.shift, "a number above 0")
        if bool(self.density) != (self.kind == "file"):
            expected = "a file of densities with kind=file, and '' with another"
            raise UserError("density", self.density or "''", expected)


def uniforms(config: TimestepConfig, draws: Draws) -> Tensor:
    """Draw the (B,) float32 uniforms in (0, 1) that times are made from.

    stratified: sample p of a step draws from cell r(p) xor k of 4096 equal cells, with r the reversal of its
    bits and k a draw of the step. So each is uniform by itself; 2^n samples that begin at a multiple of 2^n
    lie one each in 2^n equal parts, in an order that changes with the step (van der Corput's sequence under a
    random digital shift); and neither ranks nor shapes matter.
    """
    own = draws.uniform("time")
    if not config.stratified:
        return own
    first = torch.zeros(1, dtype=torch.int64)  # on the host: one number, and some hundred operations
    shift = Draws(draws.seed, draws.step_index, first, first).bits("time_cells", 1)[0] & (CELLS - 1)
    cell = _reversed(draws.position) >> 16 - (CELLS.bit_length() - 1)
    spread = ((cell ^ int(shift)) + own.double()) / CELLS
    return spread.clamp(EDGE / 2, 1 - EDGE / 2).float()


def _reversed(numbers: Tensor) -> Tensor:
    """Return the lower 16 bits of each number in the other order."""
    for width, mask in ((1, 0x5555), (2, 0x3333), (4, 0x0F0F), (8, 0x00FF)):
        numbers = (numbers & mask) << width | numbers >> width & mask
    return numbers


def shift_of(config: TimestepConfig, positions: int) -> float:
    """Return the shift for a shape of so many latent positions (2403.03206, eq. 23)."""
    return config.shift * math.sqrt(positions / config.shift_at) if config.shift_at else config.shift


def draw(
    config: TimestepConfig, path: Path, u: Tensor, positions: int = 1, density: Sequence[float] = ()
) -> Tensor:
    """Return times in (0, 1] from uniforms `u` (B,) in (0, 1); for N steps, on the grid (i + 1) / N.

    positions: of the latents, frames x height x width, by which they may be shifted.  density: of kind=file.

    logit_normal, mode and shift: Esser et al., arXiv:2403.03206, eq. 19, 20 and 23.  edm: 2206.00364, table
    1.  laplace, cauchy, sech: 2407.03297.
    """
    t = u
    if config.kind == "logit_normal":
        t = torch.sigmoid(config.mean + config.std * torch.special.ndtri(u))
    elif config.kind == "mode":
        t = 1 - u - config.mode_scale * (torch.cos(torch.pi / 2 * u) ** 2 - 1 + u)
    elif config.kind == "file":
        t = times_by_density(density, u)
    elif config.kind != "uniform":
        t = path.time_of(config.mean + config.std * _QUANTILES[config.kind](u.double())).to(u.dtype)
    if config.kind != "uniform":  # whose extremes round to the ends
        t = t.clamp(EDGE, 1 - EDGE)
    t = shifted(t, shift_of(config, positions))
    if path.num_steps is None:
        return t.clamp(min=path.first) if path.first else t
    return (torch.ceil(t * path.num_steps) / path.num_steps).clamp(1 / path.num_steps, 1)


def _laplace(u: Tensor) -> Tensor:
    return -torch.sign(u - 0.5) * torch.log1p(-2 * (u - 0.5).abs())


def _cauchy(u: Tensor) -> Tensor:
    return torch.tan(torch.pi * (u - 0.5))


def _sech(u: Tensor) -> Tensor:
    return 2 / torch.pi * torch.log(torch.tan(torch.pi / 2 * u))


_QUANTILES: dict[str, Callable[[Tensor], Tensor]] = {
    "edm": torch.special.ndtri,
    "laplace": _laplace,
    "cauchy": _cauchy,
    "sech": _sech,
}
"""Inverses of standard distribution functions."""


def shifted(t: Tensor, shift: float) -> Tensor:
    """Return shift t / (1 + (shift - 1) t): the same path with the odds t : (1 - t) multiplied by `shift`."""
    return t if shift == 1 else shift * t / (1 + (shift - 1) * t)
