"""Mean and covariance of features, added up batch by batch, and the Fréchet distance between two of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from core.errors import UserError
from core.reading.array_files import DamagedArray, open_archive
from tools.evaluate.measures import frechet_by_root, root_of

Floats = NDArray[np.float64]
LARGEST = 1 << 30  # bytes of an array of a reference
ROWS = 4096  # added up at once


@dataclass
class Moments:
    """Sums of features of d numbers in float64, about a first guess of their mean.

    Sums about the mean of the first batch lose no digits where the mean is large beside the spread.
    is_fixed: whether the guess was given.
    """

    count: int
    guess: Floats
    first: Floats
    second: Floats
    is_fixed: bool = False

    @classmethod
    def empty(cls, width: int) -> Self:
        """Return sums of no features."""
        return cls(0, np.zeros(width), np.zeros(width), np.zeros((width, width)))

    @classmethod
    def about(cls, guess: Floats) -> Self:
        """Return sums of no features about a guess that stays: ranks with one guess add their sums up."""
        width = len(guess)
        return cls(0, guess, np.zeros(width), np.zeros((width, width)), is_fixed=True)

    def vector(self) -> Floats:
        """Return all sums as one vector."""
        return np.concatenate([[self.count], self.first, self.second.reshape(-1)])

    def like(self, vector: Floats) -> Self:
        """Return sums about the same guess from a vector."""
        width = len(self.guess)
        first, second = vector[1 : 1 + width], vector[1 + width :].reshape(width, width)
        return replace(self, count=round(float(vector[0])), first=first, second=second)

    def add(self, features: NDArray[np.floating]) -> None:
        """Add features (n, d)."""
        if not len(features):
            return
        if not self.count and not self.is_fixed:
            self.guess = features.mean(0, dtype=np.float64)
        self.count += len(features)
        for start in range(0, len(features), ROWS):
            apart = features[start : start + ROWS] - self.guess
            self.first += apart.sum(0)
            self.second += apart.T @ apart

    def merged(self, other: Moments) -> Moments:
        """Return the sums of both, those of another rank or part."""
        if not other.count:
            return self
        if not self.count:
            return other
        shift = other.guess - self.guess
        first = other.first + other.count * shift
        second = other.second + np.outer(other.first, shift) + np.outer(shift, other.first)
        second += other.count * np.outer(shift, shift)
        return Moments(self.count + other.count, self.guess, self.first + first, self.second + second)

    @property
    def mean(self) -> Floats:
        return self.guess + self.first / self.count

    @property
    def covariance(self) -> Floats:
        """The unbiased one, divided by n - 1."""
        return (self.second - np.outer(self.first, self.first) / self.count) / (self.count - 1)


@dataclass(frozen=True)
class Reference:
    """The reference that samples are compared with: mean and covariance, and features where known.

    count: pictures, 0 where a file does not say.
    """

    mean: Floats
    covariance: Floats
    count: int = 0
    features: NDArray[np.float32] | None = None

    @classmethod
    def of(cls, moments: Moments, features: NDArray[np.float32] | None = None) -> Self:
        """Return the reference that sums make."""
        return cls(moments.mean, moments.covariance, moments.count, features)

    def distance(self, moments: Moments) -> float:
        """Return the Fréchet distance of features with these sums."""
        return self.distance_of(moments.mean, moments.covariance)

    def distance_of(self, mean: Floats, covariance: Floats) -> float:
        """Return the Fréchet distance of features with this mean and covariance."""
        return frechet_by_root(self.mean, self.covariance, self.root, mean, covariance)

    @cached_property
    def root(self) -> Floats:
        """The root of the covariance, which intervals and extrapolation take again and again."""
        return root_of(self.covariance)


def read_reference(path: Path, width: int, names: tuple[str, str] = ("mu", "sigma")) -> Reference:
    """Read statistics as ADM, clean-fid and torch-fidelity's users publish them: an npz of `mu` and `sigma`.

    UserError if there are none of this width.
    """
    try:
        with open_archive(path) as archive:
            mean, covariance = (archive.read(name, LARGEST) for name in names)
    except (OSError, DamagedArray) as error:
        raise UserError("reference", path, f"an npz with {names[0]} and {names[1]} ({error})") from None
    if mean.shape != (width,) or covariance.shape != (width, width):
        shapes = f"({width},) and ({width}, {width}), not {mean.shape} and {covariance.shape}"
        raise UserError("reference", path, f"{names[0]} and {names[1]} of shapes {shapes}")
    return Reference(mean.astype(np.float64), covariance.astype(np.float64))
