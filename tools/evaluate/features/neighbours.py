"""Precision and recall, density and coverage: which samples of either side lie near the other one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tools.evaluate.features.halves import Bools, Floats, Halves
from tools.evaluate.features.pairs import Features, rounded_distances

K, DENSE_K = 3, 5  # neighbours by which balls reach, as in the papers
LEAST_SAMPLES = DENSE_K + 1  # of a side
NEAREST = 48  # of a sample, among which are the k nearest of its half, except once in 10^7 times


@dataclass(frozen=True)
class Neighbours:
    """The share of each side within balls around the other, and how densely it lies there."""

    precision: float
    recall: float
    density: float
    coverage: float


@dataclass(frozen=True)
class Near:
    """The contribution of each sample to precision, recall, density and coverage.

    inside, balls (n,): whether a generated sample is within a ball around a real one, and within how many of
    the wider balls, over their k.  reached, covered (m,): whether a real sample is within a ball around a
    generated one, and whether its own wider ball holds one.
    recall_apart, coverage_apart (splits, 2): by how much the scores of halves differ, as `Halves.apart` has
    it; (0, 2) without halves.
    """

    inside: Bools
    balls: Floats
    reached: Bools
    covered: Bools
    recall_apart: Floats
    coverage_apart: Floats

    @property
    def scores(self) -> Neighbours:
        means = (self.inside, self.reached, self.balls, self.covered)
        return Neighbours(*(float(each.mean()) for each in means))


def neighbours(generated: Features, real: Features, k: int = K, dense_k: int = DENSE_K) -> Neighbours:
    """Return precision and recall (Kynkäänniemi et al. 2019, k = 3) and density and coverage (Naeem et al.
    2020, k = 5).

    Either side has 6 samples or more. Balls around a sample reach to its k-th nearest other one of the same
    side. Precision: generated ones within a ball around a real one; recall: the other way round; density:
    balls of real ones around a generated one, over k; coverage: real ones whose ball holds a generated one.
    """
    return near(generated, real, None, k, dense_k).scores


def near(
    generated: Features, real: Features, halves: Halves | None, k: int = K, dense_k: int = DENSE_K
) -> Near:
    """Return what each sample adds to `neighbours`, and how halves differ, in one pass.

    In halves a ball reaches to the k-th nearest other one of its own half.
    """
    of_made, of_real = (
        (halves.generated, halves.real)
        if halves is not None
        else (np.zeros((0, len(side)), bool) for side in (generated, real))
    )
    (reach,) = _reaches(generated, (k,), of_made)
    real_reach, real_dense = _reaches(real, (k, dense_k), of_real)
    inside, balls = np.zeros(len(generated), bool), np.zeros(len(generated))
    reached, covered = np.zeros(len(real), bool), np.zeros(len(real), bool)
    reached_by, covered_by = (np.zeros((len(of_made), 2, len(real)), bool) for _ in range(2))
    for rows, squared in rounded_distances(generated, real):
        dense = squared <= real_dense[0]
        inside[rows], balls[rows] = (squared <= real_reach[0]).any(1), dense.sum(1) / dense_k
        reached |= (squared <= reach[0, rows, None]).any(0)
        covered |= dense.any(0)
        if halves is not None:
            _mark(reached_by, squared, reach[1:, rows, None], of_made[:, rows])
            _mark(covered_by, squared, real_dense[1:, None], of_made[:, rows])
    apart = (halves.apart(seen) if halves else np.zeros((0, 2)) for seen in (reached_by, covered_by))
    return Near(inside, balls, reached, covered, *apart)


def _reaches(features: Features, ks: tuple[int, ...], halves: Bools) -> NDArray[np.float32]:
    """Return the squared distance of each feature to its k-th nearest other one, (ks, 1 + splits, n).

    First among all, then among those of its own half.  halves: (splits, n).
    """
    found = np.empty((len(ks), 1 + len(halves), len(features)), np.float32)
    count = min(NEAREST if len(halves) else max(ks), len(features) - 1)
    for rows, squared in rounded_distances(features, features):
        squared[np.arange(len(squared)), np.arange(rows.start, rows.start + len(squared))] = np.inf
        nearest = np.argpartition(squared, count - 1)[:, :count]
        distance = np.take_along_axis(squared, nearest, 1)
        order = distance.argsort(1)
        nearest, distance = np.take_along_axis(nearest, order, 1), np.take_along_axis(distance, order, 1)
        same = np.concatenate(
            [np.ones((1, *nearest.shape), bool), halves[:, nearest] == halves[:, rows, None]]
        ).cumsum(2)
        for number, k in enumerate(ks):
            place = np.where(same[..., -1] < k, count - 1, (same == k).argmax(2))
            found[number, :, rows] = distance[np.arange(len(distance)), place]
    return found


def _mark(seen: Bools, squared: NDArray[np.float32], reach: NDArray[np.float32], half: Bools) -> None:
    """Note in `seen` (splits, 2, m) which columns of `squared` (rows, m) are within reach of either half.

    reach: by split, (splits, rows, 1) or (splits, 1, m).  half: in which the rows are, (splits, rows).
    """
    rows, columns = np.nonzero(squared <= reach.max(0))
    values = squared[rows, columns]
    for number, each in enumerate(reach):
        hit = values <= np.broadcast_to(each, squared.shape)[rows, columns]
        seen[number, half[number, rows[hit]].astype(np.int64), columns[hit]] = True
