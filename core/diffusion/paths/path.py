"""The interface of a path."""

from __future__ import annotations

from typing import Literal, Protocol

from torch import Tensor

PathName = Literal[
    "rectified_flow",
    "ddpm_linear",
    "ddpm_scaled_linear",
    "ddpm_cosine",
    "ddpm_sigmoid",
    "ddpm_file",
    "variance_exploding",
    "edm",
]


class Path(Protocol):
    """A path: alpha, sigma and time_input take times in [0, 1] and keep their shape and dtype.

    num_steps: N of a path that is trained on the grid t = (i + 1) / N, or None where t is continuous.
    first: the least time that is trained; 0 where times come as near to data as their draws do.
    scales_input: whether the network sees x_t / sqrt(alpha^2 + sigma^2), not x_t.
    """

    @property
    def name(self) -> PathName: ...
    @property
    def num_steps(self) -> int | None: ...
    @property
    def first(self) -> float: ...
    @property
    def scales_input(self) -> bool: ...
    def alpha(self, t: Tensor) -> Tensor: ...
    def sigma(self, t: Tensor) -> Tensor: ...
    def levels(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return alpha and sigma, of one look at what they are made from."""
        ...

    def time_input(self, t: Tensor) -> Tensor:
        """Return the network's time input for t."""
        ...

    def time_of(self, log_ratio: Tensor) -> Tensor:
        """Return the trained times at which log(sigma / alpha) has these values, else the nearest end."""
        ...
