"""Intervals of scores: what they are made of, and how often they hold a score's expectation on Gaussians."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tests.tools.evaluate.test_features import gaussian, sums
from tools.evaluate.classified import comparing
from tools.evaluate.extractors.extractor import Seen, neighbour_scores
from tools.evaluate.features.halves import Halves
from tools.evaluate.features.inception_score import inception_score, shuffled_inception_score
from tools.evaluate.features.kernels import gaussian_mmd, kernel_distance, mmd_without, unbiased_mmd
from tools.evaluate.features.neighbours import near, neighbours
from tools.evaluate.jackknife import blocks_of, distance_interval, half_width
from tools.evaluate.measures import bootstrap_interval
from tools.evaluate.moments import Reference


def test_values_without_a_block_are_those_of_the_samples_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tools.evaluate.features.pairs.ROWS", 17)
    made, real = gaussian(0, 230, 3).astype(np.float32), gaussian(1, 50, 3, 0.4).astype(np.float32)
    block = blocks_of(len(made), seed=5)
    assert np.bincount(block).tolist() == [23] * 10
    left = [made[block != left_out] for left_out in range(10)]
    distance, rest = mmd_without(made.astype(float), real.astype(float), block)
    expected = unbiased_mmd(made.astype(float), real.astype(float))
    assert distance == pytest.approx(expected, rel=1e-12)
    kept = [unbiased_mmd(each.astype(float), real.astype(float)) for each in left]
    assert rest == pytest.approx(np.array(kept), rel=1e-12)
    whole = gaussian_mmd(made, real, 2.0, seed=5)
    kept = [gaussian_mmd(each, real, 2.0).value for each in left]
    assert whole.half_width == pytest.approx(half_width(kept), rel=1e-9)


def test_halves_are_scored_as_if_there_were_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tools.evaluate.features.pairs.ROWS", 17)
    made, real = gaussian(0, 70, 3).astype(np.float32), gaussian(1, 50, 3, 0.4).astype(np.float32)
    halves = Halves.of(len(made), len(real), seed=5)
    found = near(made, real, halves)
    assert found.scores == neighbours(made, real)
    assert halves.generated.sum(1).tolist() == [35] * 16
    for split in (0, 9):
        one, other = made[halves.generated[split]], made[~halves.generated[split]]
        for side, kept in enumerate((real[halves.real[split]], real[~halves.real[split]])):
            a, b = neighbours(one, kept), neighbours(other, kept)
            assert found.recall_apart[split, side] == pytest.approx(a.recall - b.recall)
            assert found.coverage_apart[split, side] == pytest.approx(a.coverage - b.coverage)


def test_the_jackknife_of_a_mean_is_the_interval_by_its_blocks() -> None:
    values = np.random.default_rng(0).standard_normal(200)
    block = blocks_of(200, seed=0)
    means = np.array([values[block == number].mean() for number in range(10)])
    without = [values[block != number].mean() for number in range(10)]
    assert half_width(without) == pytest.approx(2.262 * means.std(ddof=1) / math.sqrt(10))


NAMES = ("precision", "recall", "density", "coverage")


def scores_with_intervals(made: np.ndarray, real: np.ndarray, seed: int) -> dict[str, tuple[float, float]]:
    near = neighbour_scores(Seen(made, sums(made)), Seen(real, sums(real)), seed)
    found = {name: (near[name], near[f"{name}_interval"]) for name in NAMES}
    kernel = kernel_distance(made, real, 0, subsets=4, size=200)
    gauss = gaussian_mmd(made, real, 2.0, seed)
    score = {"inception_score": inception_score(3 * made, seed)}
    score["inception_score_shuffled"] = shuffled_inception_score(3 * made, seed)
    spreads = {"kid": kernel, "cmmd": gauss, **score}
    return found | {name: (each.value, each.half_width) for name, each in spreads.items()}


def covered_shares(
    repetitions: int, sizes: tuple[int, int], width: int, shift: float, scale: float
) -> dict[str, tuple[float, float]]:
    """Draw generated Gaussians again and again beside one real set.  sizes: of both.

    Returns for each score how often its interval holds the score's mean, and the interval's mean half width
    over that which the spread of the scores asks for.
    """
    real = gaussian(7, sizes[1], width).astype(np.float32)
    rows = []
    for seed in range(repetitions):
        made = gaussian(1000 + seed, sizes[0], width, shift, scale).astype(np.float32)
        rows.append(scores_with_intervals(made, real, seed))
    names = list(rows[0])
    values, halves = np.array([[row[name] for name in names] for row in rows]).transpose(2, 0, 1)
    shares = (abs(values - values.mean(0)) <= halves).mean(0)
    ratios = halves.mean(0) / (2 * values.std(0))
    return {name: (float(a), float(b)) for name, a, b in zip(names, shares, ratios, strict=True)}


def test_intervals_of_neighbours_and_kernels_are_about_as_wide_as_scores_spread() -> None:
    found = covered_shares(80, (200, 200), 4, shift=0.3, scale=1.1)
    assert all(share >= 0.85 for share, _ in found.values()), found
    assert all(0.75 <= ratio <= 1.4 for _, ratio in found.values()), found


@pytest.mark.full
@pytest.mark.parametrize(
    ("sizes", "width", "shift", "scale"),
    [
        ((400, 400), 4, 0.3, 1.1),
        ((400, 400), 2, 0.5, 1.2),
        ((400, 400), 4, 0.0, 1.0),
        ((400, 400), 8, 0.2, 0.8),
        ((1000, 400), 4, 0.3, 1.1),
        ((400, 1000), 8, 0.3, 1.1),
    ],
)
def test_intervals_cover_the_expected_score(
    sizes: tuple[int, int], width: int, shift: float, scale: float
) -> None:
    """95 +- 4 % of 300 repetitions on Gaussians."""
    found = covered_shares(300, sizes, width, shift, scale)
    assert all(0.91 <= share <= 0.99 for share, _ in found.values()), found


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
    found = comparing.compare(made, train, heldout, count=50, draws=3, seed=1)
    assert found["neighbour_count"] == 250
    assert 0.01 < found["precision_interval"] < 0.2
    assert 0.01 < found["recall_interval"] < 0.2
    assert "frechet_interval" not in found  # sets of 50: too few
    few = comparing.compare(made[:199], train, heldout, count=50, draws=3, seed=1)
    assert "recall_interval" not in few


@pytest.mark.full
def test_intervals_of_means_over_subsets_cover_the_expected_score() -> None:
    """95 +- 4 % of 300 repetitions on Gaussians."""
    train, heldout = np.random.default_rng(7).standard_normal((2, 300, 4))
    names = ("frechet", "precision", "recall")
    rows = []
    for seed in range(300):
        made = 1.1 * np.random.default_rng(1000 + seed).standard_normal((450, 4)) + 0.3
        found = comparing.compare(made, train, heldout, count=250, draws=3, seed=1)
        rows.append([[found[name], found[f"{name}_interval"]] for name in names])
    values, halves = np.array(rows).transpose(2, 0, 1)
    covered = dict(zip(names, (abs(values - values.mean(0)) <= halves).mean(0), strict=True))
    assert all(0.91 <= share <= 0.99 for share in covered.values()), covered
