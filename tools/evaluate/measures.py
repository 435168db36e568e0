"""Measures of generated samples against real ones, on feature vectors (n, d) or on clips (n, T, H, W, C)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from core.permutations import permutation

Floats = NDArray[np.float64]
ROWS = 1024  # of a block of distances


def frechet(a: Floats, b: Floats) -> float:
    """Return the Fréchet distance of the Gaussians fitted to features `a` (n, d) and `b` (m, d).

    |mean_a - mean_b|^2 + tr(A + B - 2 (A B)^(1/2)) (Heusel et al. 2017, equation 6). The trace of the root
    is taken from the eigenvalues of the symmetric A^(1/2) B A^(1/2), which are those of A B; it stays exact
    when A or B is singular, where a matrix square root of A B does not.
    """
    cov_a, cov_b = (np.atleast_2d(np.cov(features, rowvar=False)) for features in (a, b))
    return frechet_of(a.mean(0), cov_a, b.mean(0), cov_b)


def frechet_of(mean_a: Floats, cov_a: Floats, mean_b: Floats, cov_b: Floats) -> float:
    """Return the Fréchet distance of Gaussians with these means (d,) and covariances (d, d)."""
    return frechet_by_root(mean_a, cov_a, root_of(cov_a), mean_b, cov_b)


def root_of(covariance: Floats) -> Floats:
    """Return the symmetric square root of a covariance (d, d)."""
    values, vectors = np.linalg.eigh(covariance)
    return vectors * np.sqrt(values.clip(0)) @ vectors.T


def frechet_by_root(mean_a: Floats, cov_a: Floats, root: Floats, mean_b: Floats, cov_b: Floats) -> float:
    """Return `frechet_of` where the root of `cov_a`, which takes most of the time, is known."""
    product = np.linalg.eigvalsh(root @ cov_b @ root)
    trace_root = np.sqrt(product.clip(0)).sum()
    return float(np.square(mean_a - mean_b).sum() + np.trace(cov_a + cov_b) - 2 * trace_root)


@dataclass(frozen=True)
class Neighbourhoods:
    """The union of balls around features (n, d), each reaching to its k-th nearest other feature."""

    features: Floats
    radii: Floats

    @classmethod
    def of(cls, features: Floats, k: int) -> Neighbourhoods:
        """Build the manifold estimate of Kynkäänniemi et al. 2019, section 2."""
        distance = distances(features, features)
        return cls(features, np.partition(distance, k, axis=1)[:, k])  # entry 0 is the point itself

    def share_inside(self, features: Floats) -> float:
        """Return the share of `features` (m, d) that lies in at least one ball."""
        return float((distances(features, self.features) <= self.radii).any(axis=1).mean())


def precision_recall(generated: Floats, real: Floats, k: int = 3) -> tuple[float, float]:
    """Return improved precision and recall (Kynkäänniemi et al. 2019); use equally many of both sides.

    Precision: share of generated samples within the manifold of the real ones; recall: the other way round.
    """
    manifold_real, manifold_generated = Neighbourhoods.of(real, k), Neighbourhoods.of(generated, k)
    return manifold_real.share_inside(generated), manifold_generated.share_inside(real)


def bootstrap_interval(values: Floats, seed: int, repetitions: int = 1000) -> float:
    """Return half the width of the 95 % interval of a mean of values (n,), by the bootstrap (Efron 1979)."""
    draws = np.random.default_rng(seed)
    means = [values[draws.integers(0, len(values), len(values))].mean() for _ in range(repetitions)]
    low, high = np.quantile(means, (0.025, 0.975))
    return float(high - low) / 2


def nearest_distance(features: Floats, reference: Floats) -> float:
    """Return the mean Euclidean distance from each of `features` to its nearest neighbour in `reference`."""
    return float(nearest_distances(features, reference).mean())


def nearest_distances(features: Floats, reference: Floats) -> Floats:
    """Return the Euclidean distance (n,) from each of `features` to its nearest neighbour in `reference`."""
    some = (features[start : start + ROWS] for start in range(0, len(features), ROWS))
    return np.concatenate([np.zeros(0), *(distances(each, reference).min(axis=1) for each in some)])


def distances(a: Floats, b: Floats) -> Floats:
    """Return Euclidean distances (n, m) between features `a` (n, d) and `b` (m, d)."""
    squared = np.square(a).sum(1)[:, None] + np.square(b).sum(1) - 2 * a @ b.T
    if a is b:
        np.fill_diagonal(squared, 0)
    return np.sqrt(squared.clip(0))


def subset(size: int, count: int, numbers: tuple[int, ...], seed: int, purpose: str) -> NDArray[np.int64]:
    """Return `count` of `size` rows at random, the same ones on every machine."""
    return permutation(seed, purpose, numbers, size)[:count]


@dataclass(frozen=True)
class Motion:
    """How fast pixels change (0..255 a frame), and how unevenly: second over first difference in time.

    speeds, jerks: what each clip (n,) adds to the two; the intervals of their means are those of both.
    """

    speed: float
    jerk: float
    speeds: Floats = field(default_factory=lambda: np.zeros(0), compare=False)
    jerks: Floats = field(default_factory=lambda: np.zeros(0), compare=False)


def motion(first: Floats, second: Floats) -> Motion:
    """Return the motion of clips (n,), by the mean absolute differences in time of each (`changes`).

    `jerk` is a ratio of two means; a clip's part in it is the linear one, (second - jerk first) / speed.
    """
    speed = float(first.mean())
    jerk = ratio(float(second.mean()), speed)
    apart = (second - jerk * first) / speed if speed else np.full(len(first), math.nan)
    return Motion(speed, jerk, first, apart)


def changes(clips: NDArray[np.uint8]) -> tuple[Floats, Floats]:
    """Return the mean absolute first and second differences in time of each clip (n, T >= 3, H, W, C)."""
    first = np.diff(clips.astype(np.float32), axis=1)
    found = (np.abs(each).reshape(len(clips), -1) for each in (first, np.diff(first, axis=1)))
    one, two = (each.mean(1, dtype=np.float64) for each in found)
    return one, two


def ratio(value: float, reference: float) -> float:
    """Return value / reference, nan where the reference is 0."""
    return value / reference if reference else math.nan
