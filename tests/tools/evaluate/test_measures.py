"""Scores against closed forms and cases that can be counted by hand."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg

from tools.evaluate import measures


def gaussian(n: int, d: int, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    return random.normal(size=(n, d)) @ random.normal(size=(d, d)) + random.normal(size=d)


def test_frechet_distance_matches_the_matrix_square_root() -> None:
    a, b = gaussian(400, 12, 0), gaussian(300, 12, 1)
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = scipy.linalg.sqrtm(cov_a @ cov_b).real
    expected = np.square(a.mean(0) - b.mean(0)).sum() + np.trace(cov_a + cov_b - 2 * root)
    assert measures.frechet(a, b) == pytest.approx(expected, rel=1e-6)


def test_frechet_distance_of_one_dimension_is_the_closed_form() -> None:
    a, b = np.random.default_rng(0).normal(size=(2, 500, 1))
    b = 3 + 2 * b
    expected = (a.mean() - b.mean()) ** 2 + (a.std(ddof=1) - b.std(ddof=1)) ** 2
    assert measures.frechet(a, b) == pytest.approx(expected)


def test_frechet_distance_survives_singular_covariances() -> None:
    a = gaussian(10, 40, 2)
    assert measures.frechet(a, a) == pytest.approx(0, abs=1e-5 * np.trace(np.cov(a, rowvar=False)))


def test_precision_and_recall_of_separate_and_equal_sets() -> None:
    real = np.random.default_rng(0).normal(size=(100, 4))
    assert measures.precision_recall(real + 100, real) == (0, 0)
    assert measures.precision_recall(real, real) == (1, 1)


def test_collapsed_samples_have_precision_but_no_recall() -> None:
    random = np.random.default_rng(0)
    real = random.normal(size=(200, 2))
    collapsed = real[:1] + 1e-3 * random.normal(size=(200, 2))
    precision, recall = measures.precision_recall(collapsed, real)
    assert precision > 0.9
    assert recall < 0.05


def test_neighbourhoods_reach_to_the_kth_other_point() -> None:
    line = np.array([[0.0], [1.0], [3.0], [7.0]])
    assert measures.Neighbourhoods.of(line, 1).radii.tolist() == [1, 1, 2, 4]
    assert measures.Neighbourhoods.of(line, 2).radii.tolist() == [3, 2, 3, 6]


def test_nearest_distance_by_hand() -> None:
    assert measures.nearest_distance(
        np.array([[0.0, 0.0], [4.0, 0.0]]), np.array([[3.0, 4.0], [4.0, 1.0]])
    ) == (pytest.approx((17**0.5 + 1) / 2))


def test_motion_of_a_ramp_has_no_jerk_and_of_an_alternation_twice_its_speed() -> None:
    ramp = np.arange(0, 50, 10, dtype=np.uint8)[None, :, None, None, None] + np.zeros(
        (1, 5, 2, 2, 3), np.uint8
    )
    assert measures.motion(*measures.changes(ramp)) == measures.Motion(10, 0)
    flicker = np.array([0, 8, 0, 8], np.uint8)[None, :, None, None, None] + np.zeros(
        (1, 4, 2, 2, 3), np.uint8
    )
    assert measures.motion(*measures.changes(flicker)) == measures.Motion(8, 2)


def test_parts_of_clips_give_the_intervals_of_their_motion() -> None:
    random = np.random.default_rng(0)
    clips = random.integers(0, random.integers(2, 256, (30, 1, 1, 1, 1)), (30, 4, 3, 3, 1)).astype(np.uint8)
    found = measures.motion(*measures.changes(clips))
    assert found.speeds.mean() == pytest.approx(found.speed, rel=1e-6)
    assert found.jerks.mean() == pytest.approx(0, abs=1e-6)
    without = [measures.motion(*measures.changes(np.delete(clips, number, 0))) for number in range(30)]
    for parts, values in (
        (found.speeds, [each.speed for each in without]),
        (found.jerks, [each.jerk for each in without]),
    ):
        jackknife = np.std(values) * np.sqrt(29)  # the standard error, by leaving each clip out
        assert measures.bootstrap_interval(parts, 0) == pytest.approx(1.96 * jackknife, rel=0.15)
    still = measures.changes(np.zeros((2, 4, 1, 1, 1), np.uint8))
    assert np.isnan(measures.motion(*still).jerks).all()


def test_subsets_are_repeatable_and_differ() -> None:
    first, again, other = (measures.subset(50, 20, (draw,), seed=1, purpose="test") for draw in (0, 0, 1))
    assert np.array_equal(first, again)
    assert len(set(first.tolist())) == 20
    assert not np.array_equal(first, other)
