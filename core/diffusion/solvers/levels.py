"""The inputs of a solver: levels of noise with their coefficients, and the network's estimates there."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from core.config.settings import setting
from core.diffusion.paths.path import Path
from core.errors import UserError

HALVINGS = 60  # of an interval of times: to the last bit of a float64


@dataclass(frozen=True)
class Level:
    """A time on the path with its coefficients; time_input is the network's form of it."""

    t: float
    alpha: float
    sigma: float
    time_input: float

    @property
    def straight(self) -> float:
        """Share of noise, which runs from 0 at data to 1 at noise on every path."""
        return self.sigma / (self.alpha + self.sigma)

    @property
    def log_snr(self) -> float:
        """Half of the log signal-to-noise ratio, log(alpha / sigma); infinite at the ends of a path."""
        if self.alpha == 0:
            return -math.inf
        return math.log(self.alpha / self.sigma) if self.sigma > 0 else math.inf


@dataclass(frozen=True)
class TensorLevel(Level):
    """Levels of their own for samples or frames: tensors that broadcast against the state, in its dtype.

    t: the largest of them.  time_input: (B,), or (B, G) of groups of frames.
    """

    alpha: Any
    sigma: Any
    time_input: Any


@dataclass(frozen=True)
class Estimate:
    """Data and noise that the network estimates in x_t; variance_fraction is its variance output, if any."""

    data: Tensor
    noise: Tensor
    variance_fraction: Tensor | None = None

    @property
    def slope(self) -> Tensor:
        """Return noise - data, the derivative of x / (alpha + sigma) by the share of noise."""
        return self.noise - self.data

    def at(self, level: Level) -> Tensor:
        """Return the state that has these data and this noise at another level: the step of ddim."""
        return mixed((level.alpha, self.data), (level.sigma, self.noise))

    @property
    def witness(self) -> Tensor:
        """Return a tensor (B, ...) that is finite for the samples whose data are."""
        return self.data


Denoise = Callable[[Tensor, Level], Estimate]
Noise = Callable[[int], Tensor]
Variance = Literal["auto", "small", "large", "interpolated"]


@dataclass(frozen=True, kw_only=True)
class ChurnConfig:
    """Noise that the solver `edm` adds before each step (2206.00364, table 5, has amounts)."""

    amount: float = setting(0.0, "total noise added over all steps; 0 is none, which equals heun", low=0)
    low: float = setting(0.0, "least sigma / alpha at which noise is added", low=0)
    high: float = setting(1e9, "largest sigma / alpha at which noise is added", low=0)
    noise: float = setting(
        1.0, "standard deviation of the added noise; slightly above 1 counters lost detail", low=0
    )


@dataclass(frozen=True, kw_only=True)
class CorrectorConfig:
    """Langevin steps of the solver `langevin`."""

    steps: int = setting(1, "Langevin steps per noise level, each with one evaluation of the network", low=1)
    size: float = setting(0.16, "step size; x moves by about twice this share of sigma", low=0)


@dataclass(frozen=True, kw_only=True)
class RestartConfig:
    """The interval of times that the solver `restart` repeats."""

    low: float = setting(0.1, "time from which noise is added anew; the nearest of the grid", low=0, high=1)
    high: float = setting(0.4, "time up to which it is added", low=0, high=1)
    times: int = setting(1, "number of repetitions", low=1)

    def __post_init__(self) -> None:
        if self.low >= self.high:
            raise UserError("low", self.low, f"a time below high={self.high:g}")


@dataclass(frozen=True, kw_only=True)
class AdaptiveConfig:
    """Settings of the solver `dopri5`."""

    tolerance: float = setting(
        1e-4, "largest estimated error per step, relative to 1 + the size of the state", low=1e-12, high=1
    )
    most: int = setting(1000, "largest number of attempted steps", low=1)


@dataclass(frozen=True)
class Options:
    """Choices of single solvers.

    eta: of ddim, the noise of a step: 0 is none, 1 that of the ancestral sampler; of euler_maruyama half of
    the diffusion beside r.  variance: of ddpm: small is the posterior's, large that of the step forward,
    interpolated the geometric mean of both, weighted by variance_share (0 is small), auto what the network
    learned, else small.
    """

    eta: float = 0.0
    variance: Variance = "auto"
    variance_share: float = 0.5
    churn: ChurnConfig = ChurnConfig()
    corrector: CorrectorConfig = CorrectorConfig()
    restart: RestartConfig = RestartConfig()
    adaptive: AdaptiveConfig = AdaptiveConfig()


DEFAULTS = Options()


class Solver(Protocol):
    def __call__(
        self,
        denoise: Denoise,
        x: Tensor,
        times: Sequence[float],
        path: Path,
        *,
        noise: Noise,
        options: Options = DEFAULTS,
    ) -> Tensor:
        """Return the sample at t = 0 of a start `x` at times[0], in the dtype of `x`.

        times: falling to 0.  noise: of the number of a step, standard normal numbers in the shape of `x`.
        """
        ...


def mixed(*terms: tuple[float, Tensor]) -> Tensor:
    """Return the sum of weighted tensors of one shape: one pass over the state for each that has a weight.

    A first weight of 1 takes no pass. Weights are numbers of the host, so that nothing is waited for.
    """
    (weight, x), *rest = [term for term in terms if term[0]] or terms[:1]
    x = x if weight == 1 else weight * x
    for weight, each in rest:
        x = torch.add(x, each, alpha=weight)
    return x


def levels(path: Path, times: Sequence[float]) -> list[Level]:
    """Return the coefficients of every time, as Python numbers; `times` must fall and end at 0."""
    if len(times) < 2 or times[-1] != 0 or any(a <= b for a, b in pairwise(times)):
        raise ValueError(f"times must fall to 0, got {list(times)}")
    return levels_at(path, times)


def levels_at(path: Path, times: Sequence[float]) -> list[Level]:
    """Return the coefficients of any times, computed in float64."""
    t = torch.tensor(list(times), dtype=torch.float64)
    columns = (*path.levels(t), path.time_input(t))
    return [Level(*row) for row in zip(times, *(column.tolist() for column in columns), strict=True)]


def times_at(path: Path, wanted: Sequence[float], measure: Callable[[Tensor, Tensor], Tensor]) -> list[float]:
    """Return the times in [0, 1] at which a measure has these values, by bisection.

    measure: of alpha and sigma, both (n,) float64; it grows with time.
    """
    return time_of_measure(path, torch.tensor(list(wanted), dtype=torch.float64), measure).tolist()


def time_of_measure(path: Path, target: Tensor, measure: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Return `times_at` of float64 tensors of any shape, on their device."""
    low, high = torch.zeros_like(target), torch.ones_like(target)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        is_below = measure(*path.levels(middle)) < target
        low, high = torch.where(is_below, middle, low), torch.where(is_below, high, middle)
    return high


def noise_share(alpha: Tensor, sigma: Tensor) -> Tensor:
    """Return sigma / (alpha + sigma), the variable in which every path is straight."""
    return sigma / (alpha + sigma)


def noise_to_signal(alpha: Tensor, sigma: Tensor) -> Tensor:
    """Return log(sigma / alpha), which grows with time; infinite at the ends."""
    return torch.log(sigma) - torch.log(alpha)
