"""Solvers of fixed steps, written as generators: they ask for estimates, and their caller answers.

So one and the same solver runs by itself, one denoiser answering all, or several times side by side, each on
frames of its own, with one evaluation of the network for all of them (`core/diffusion/frames/lagging.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor

from core.diffusion.paths.path import Path
from core.diffusion.solvers.levels import DEFAULTS, Denoise, Estimate, Level, Noise, Options, levels

Walk = Generator[tuple[Tensor, Level], Estimate, Tensor]
"""A solver under way: it asks for the estimate of a state at a level, and returns the sample at t = 0."""


@dataclass(frozen=True)
class Course:
    """The levels that a solver steps along, of a grid that falls to t = 0, with their times.

    noise: of the number of a draw, standard normal numbers in the shape of the state.
    """

    times: Sequence[float]
    levels: list[Level]
    path: Path
    noise: Noise
    options: Options = DEFAULTS

    @classmethod
    def along(cls, times: Sequence[float], path: Path, noise: Noise, options: Options = DEFAULTS) -> Course:
        """Compute the coefficients of every time; `times` must fall and end at 0."""
        return cls(times, levels(path, times), path, noise, options)

    @property
    def steps(self) -> Iterator[tuple[int, Level, Level]]:
        """Number, start and end of every step."""
        return ((number, *step) for number, step in enumerate(pairwise(self.levels)))


@dataclass(frozen=True)
class Stepwise:
    """A solver of fixed steps, called as a `Solver`.  begin: of a start at the first time of a course."""

    begin: Callable[[Tensor, Course], Walk]

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
        """Return the sample at t = 0 of a start, with one denoiser for all that is asked."""
        return answered(self.begin(x, Course.along(times, path, noise, options)), denoise)


def answered(walk: Walk, denoise: Denoise) -> Tensor:
    """Return the end of a walk, all of whose questions one denoiser answers."""
    try:
        asked = next(walk)
        while True:
            asked = walk.send(denoise(*asked))
    except StopIteration as end:
        return end.value
