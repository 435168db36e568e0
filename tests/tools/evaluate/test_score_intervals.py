"""Intervals of scores: what they are made of, and how often they hold a score's expectation on Gaussians."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tests.tools.evaluate.test_features import gaussian, sums
from tools.evaluate import by_classifier
from tools.evaluate.features import (
    Neighbours,
    kernel_distance,
    mmd_without,
    neighbours,
    neighbours_without,
    unbiased_mmd,
)
from tools.evaluate.jackknife import blocks_of, distance_interval, half_width
from tools.evaluate.measures import bootstrap_interval
from tools.evaluate.moments import Reference


def test_values_without_a_block_are_those_of_the_samples_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tools.evaluate.features.ROWS", 17)
    made, real = gaussian(0, 70, 3).astype(np.float32), gaussian(1, 50, 3, 0.4).astype(np.float32)
    block = blocks_of(len(made), seed=5)
    assert np.bincount(block).tolist() == [7] * 10
    whole, *without = neighbours_without(made, real, block)
    assert whole == neighbours(made, real)
    assert without == [neighbours(made[block != left_out], real) for left_out in range(10)]
    distance, rest = mmd_without(made.astype(float), real.astype(float), block)
    assert distance == unbiased_mmd(made.astype(float), real.astype(float))
    kept = [unbiased_mmd(made[block != left_out].astype(float), real.astype(float)) for left_out in range(10)]
    assert rest == pytest.approx(np.array(kept), rel=1e-12)


def test_the_jackknife_of_a_mean_is_the_interval_by_its_blocks() -> None:
    values = np.random.default_rng(0).standard_normal(200)
    block = blocks_of(200, seed=0)
    means = np.array([values[block == number].mean() for number in range(10)])
    without = [values[block != number].mean() for number in range(10)]
    assert half_width(without) == pytest.approx(2.262 * means.std(ddof=1) / math.sqrt(10))


def parts_of(near: Neighbours) -> list[float]:
    return [near.precision, near.recall, near.density, near.coverage]


def covered_shares(
    repetitions: int, count: int, width: int, shift: float, scale: float
) -> dict[str, tuple[float, float]]:
    """Draw generated Gaussians again and again beside one real set.

    Returns for each score how often its interval holds the score's mean, and the interval's mean half width
    over that which the spread of the scores asks for.
    """
    real = gaussian(7, count, width).astype(np.float32)
    values, halves = [], []
    for seed in range(repetitions):
        made = gaussian(1000 + seed, count, width, shift, scale).astype(np.float32)
        whole, *without = map(parts_of, neighbours_without(made, real, blocks_of(count, seed)))
        kernel = kernel_distance(made, real, 0, subsets=4, size=200)
        values.append([*whole, kernel.value])
        halves.append([*map(half_width, zip(*without, strict=True)), kernel.half_width])
    spread, half = np.array(values), np.array(halves)
    shares = (abs(spread - spread.mean(0)) <= half).mean(0)
    ratios = half.mean(0) / (2.262 * spread.std(0))
    names = ("precision", "recall", "density", "coverage", "kid")
    return {name: (float(a), float(b)) for name, a, b in zip(names, shares, ratios, strict=True)}


def test_intervals_of_neighbours_and_kernels_are_about_as_wide_as_scores_spread() -> None:
    found = covered_shares(40, 200, 4, shift=0.3, scale=1.1)
    assert all(share >= 0.85 for share, _ in found.values()), found
    assert all(0.75 <= ratio <= 2 for _, ratio in found.values()), found


@pytest.mark.full
@pytest.mark.parametrize(
    ("width", "shift", "scale"), [(4, 0.3, 1.1), (2, 0.5, 1.2), (4, 0.0, 1.0), (8, 0.2, 0.8)]
)
def test_intervals_cover_the_expected_score(width: int, shift: float, scale: float) -> None:
    """95 +- 4 % of 300 repetitions on Gaussians, more for recall and coverage, whose intervals are wide."""
    found = covered_shares(300, 400, width, shift, scale)
    for name in ("precision", "density", "kid"):
        assert 0.91 <= found[name][0] <= 0.99, found
    for name in ("recall", "coverage"):
        assert found[name][0] >= 0.94, found
        assert 1 <= found[name][1] <= 2, found


@pytest.mark.full
def test_intervals_cover_the_expected_distance() -> None:
    """95 +- 4 % of 300 repetitions on Gaussians."""
    reference = Reference(np.zeros(4), np.eye(4))
    made = [gaussian(1000 + seed, 400, 4, 0.1, 1.1) for seed in range(300)]
    values = [reference.distance(sums(features)) for features in made]
    covered = [
        abs(value - np.mean(values)) <= distance_interval(features, reference, seed)
        for seed, (value, features) in enumerate(zip(values, made, strict=True))
    ]
    assert 0.91 <= np.mean(covered) <= 0.99


def test_the_interval_of_a_mean_covers_it() -> None:
    inside = []
    for seed in range(300):
        values = np.random.default_rng(1000 + seed).exponential(size=100)
        inside.append(abs(values.mean() - 1) <= bootstrap_interval(values, seed, repetitions=300))
    assert 0.90 <= np.mean(inside) <= 0.97  # of a skewed distribution, a little under 95 %


def test_intervals_of_precision_and_recall_leave_blocks_out_of_all_subsets() -> None:
    random = np.random.default_rng(0)
    made, train, heldout = random.standard_normal((300, 4)) + 0.5, *random.standard_normal((2, 250, 4))
    found = by_classifier.compare(made, train, heldout, count=50, draws=3, seed=1)
    assert found["neighbour_count"] == 250
    assert 0.01 < found["precision_interval"] < 0.2
    assert 0.01 < found["recall_interval"] < 0.2
    assert "frechet_interval" not in found  # sets of 50: too few
    few = by_classifier.compare(made[:199], train, heldout, count=50, draws=3, seed=1)
    assert "recall_interval" not in few


@pytest.mark.full
def test_intervals_of_means_over_subsets_cover_the_expected_score() -> None:
    """95 +- 4 % of 300 repetitions on Gaussians, more for recall, whose interval is wide."""
    train, heldout = np.random.default_rng(7).standard_normal((2, 300, 4))
    names = ("frechet", "precision", "recall")
    rows = []
    for seed in range(300):
        made = 1.1 * np.random.default_rng(1000 + seed).standard_normal((450, 4)) + 0.3
        found = by_classifier.compare(made, train, heldout, count=250, draws=3, seed=1)
        rows.append([[found[name], found[f"{name}_interval"]] for name in names])
    values, halves = np.array(rows).transpose(2, 0, 1)
    covered = dict(zip(names, (abs(values - values.mean(0)) <= halves).mean(0), strict=True))
    assert 0.91 <= covered["frechet"] <= 0.99, covered
    assert 0.91 <= covered["precision"] <= 0.99, covered
    assert covered["recall"] >= 0.94, covered
