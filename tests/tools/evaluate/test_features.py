"""Measures on features: closed forms, twins by brute force, and sums in parts."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import scipy.special

from core.errors import UserError
from tools.evaluate.features import inception_score as inception_score_module
from tools.evaluate.features.inception_score import inception_score, shuffled_inception_score
from tools.evaluate.features.kernels import gaussian_mmd, kernel_distance, unbiased_mmd
from tools.evaluate.features.neighbours import neighbours
from tools.evaluate.jackknife import blocks_of, half_width, without_bias
from tools.evaluate.measures import frechet, frechet_of, precision_recall
from tools.evaluate.moments import Moments, Reference, read_reference


def gaussian(seed: int, count: int, width: int = 6, shift: float = 0.0, scale: float = 1.0) -> np.ndarray:
    return shift + scale * np.random.default_rng(seed).standard_normal((count, width))


def sums(features: np.ndarray) -> Moments:
    moments = Moments.empty(features.shape[1])
    moments.add(features)
    return moments


def test_frechet_is_the_closed_form_of_gaussians() -> None:
    a, b = np.diag([1.0, 4.0, 9.0]), np.diag([4.0, 1.0, 0.0])
    expected = 3 * 0.5**2 + sum((math.sqrt(x) - math.sqrt(y)) ** 2 for x, y in ((1, 4), (4, 1), (9, 0)))
    assert frechet_of(np.zeros(3), a, np.full(3, 0.5), b) == pytest.approx(expected, abs=1e-12)


def test_sums_in_parts_are_those_of_all_at_once_also_far_from_zero() -> None:
    features = gaussian(0, 1000, shift=1e6)
    whole = sums(features)
    parts = [sums(part) for part in np.array_split(features, 7)]
    merged = Moments.empty(6)
    for part in parts:
        merged = merged.merged(part)
    assert merged.count == 1000
    assert np.allclose(merged.mean, features.mean(0), rtol=1e-14)
    assert np.allclose(merged.covariance, np.cov(features, rowvar=False), rtol=0, atol=1e-9)
    assert np.allclose(whole.covariance, merged.covariance, rtol=0, atol=1e-9)
    real = gaussian(1, 800)
    assert Reference.of(sums(real)).distance(sums(features - 1e6)) == pytest.approx(
        frechet(features - 1e6, real), abs=1e-9
    )


def test_sums_of_ranks_about_one_guess_add_up_as_vectors() -> None:
    features, guess = gaussian(0, 100, shift=3), np.full(6, 2.9)
    ranks = []
    for part in (features[:70], features[70:], features[:0]):
        ranks.append(Moments.about(guess))
        ranks[-1].add(part)
    total = Moments.about(guess).like(np.sum([rank.vector() for rank in ranks], axis=0))
    assert total.count == 100
    assert np.allclose(total.mean, features.mean(0), rtol=1e-14)
    assert np.allclose(total.covariance, np.cov(features, rowvar=False), rtol=0, atol=1e-12)


def test_kid_is_unbiased_and_its_twin() -> None:
    found = [unbiased_mmd(gaussian(2 * s, 20), gaussian(2 * s + 1, 20)) for s in range(400)]
    assert abs(np.mean(found)) < 3 * np.std(found) / 20  # equal distributions: 0 in the mean
    assert min(found) < 0
    a, b = gaussian(0, 5), gaussian(1, 7, shift=0.3)

    def kernel(x: np.ndarray, y: np.ndarray) -> float:
        return float((x @ y / 6 + 1) ** 3)

    def within(x: np.ndarray) -> float:
        rows = range(len(x))
        return float(np.mean([kernel(x[i], x[j]) for i in rows for j in rows if i != j]))

    between = np.mean([kernel(x, y) for x in a for y in b])
    assert unbiased_mmd(a, b) == pytest.approx(within(a) + within(b) - 2 * between, abs=1e-12)
    spread = kernel_distance(
        gaussian(3, 300).astype(np.float32), gaussian(4, 300).astype(np.float32), 0, 10, 100
    )
    assert abs(spread.value) < 3 * spread.deviation
    assert math.isnan(spread.half_width)  # subsets of 100: too few


def drawn(seed: int, count: int) -> np.ndarray:
    """Return features that no version of NumPy changes."""
    words = np.random.Philox(key=seed).random_raw(count * 16)
    return ((words >> np.uint64(11)) * 2.0**-53).reshape(count, 16)


def test_scores_are_those_of_torch_fidelity() -> None:
    """The numbers are torch-fidelity 0.4.0's for the same float64 features, by its formulas alone."""
    made, real = drawn(1, 400) ** 2, 1.1 * drawn(2, 500)
    assert Reference.of(sums(real)).distance(sums(made)) == pytest.approx(0.7765920535487294, rel=1e-12)
    assert unbiased_mmd(made, real[:400]) == pytest.approx(0.2697725780429101, rel=1e-12)
    near = neighbours(made.astype(np.float32), real.astype(np.float32))
    assert (near.precision, near.recall) == pytest.approx((0.56, 0.546))
    logits = 8 * made
    log_p = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)  # one split, in float64
    p = np.exp(log_p)
    assert math.exp((p * (log_p - np.log(p.mean(0)))).sum(1).mean()) == pytest.approx(4.213767848082752)
    assert inception_score(logits, 0).value == pytest.approx(4.213767848082752, rel=1e-6)


def test_statistics_in_a_file_give_the_distance_of_adms_formulas(tmp_path: Path) -> None:
    """ADM's evaluator: `np.cov` of features, and the trace of `sqrtm` of the product of both covariances."""
    made, real = drawn(3, 300), drawn(4, 400) ** 2
    np.savez(tmp_path / "ref.npz", mu=real.mean(0), sigma=np.cov(real, rowvar=False))
    apart, covariance = made.mean(0) - real.mean(0), np.cov(made, rowvar=False)
    root = scipy.linalg.sqrtm(covariance @ np.cov(real, rowvar=False)).real
    expected = (
        apart @ apart + np.trace(covariance) + np.trace(np.cov(real, rowvar=False)) - 2 * np.trace(root)
    )
    found = read_reference(tmp_path / "ref.npz", 16).distance(sums(made))
    assert found == pytest.approx(expected, rel=1e-9)


def test_inception_score_of_known_predictions() -> None:
    sure = np.repeat(50.0 * np.eye(4, dtype=np.float32), 30, 0)
    assert inception_score(sure, 0).value == pytest.approx(4)
    same = np.zeros((120, 4), np.float32)
    assert shuffled_inception_score(same, 0).value == pytest.approx(1)


def test_the_inception_score_has_the_splits_of_adms_evaluator(monkeypatch: pytest.MonkeyPatch) -> None:
    """ADM's formula again: means over splits of so many images in the order given, the last one shorter."""
    monkeypatch.setattr(inception_score_module, "SPLIT", 100)
    logits = 6 * drawn(1, 250)
    p = scipy.special.softmax(logits, axis=1)
    scores = []
    for first in range(0, 250, 100):
        part = p[first : first + 100]
        scores.append(math.exp((part * (np.log(part) - np.log(part.mean(0, keepdims=True)))).sum(1).mean()))
    found = inception_score(logits, seed=0)
    assert found.value == pytest.approx(np.mean(scores), rel=1e-12)
    assert found.deviation == pytest.approx(np.std(scores), rel=1e-12)
    assert found.value != pytest.approx(inception_score(logits[::-1], seed=0).value, rel=1e-6)
    monkeypatch.undo()
    whole = math.exp((p * (np.log(p) - np.log(p.mean(0)))).sum(1).mean())
    few = inception_score(logits, seed=0)
    assert few.value == pytest.approx(whole, rel=1e-12)
    assert math.isnan(few.deviation)
    assert found.value < inception_score(logits, seed=0).value  # fewer images a split


def test_the_inception_score_without_a_block_is_that_of_the_other_images() -> None:
    logits = 6 * drawn(2, 230)
    block = blocks_of(230, seed=3)
    without = [inception_score(logits[block != left_out], seed=3).value for left_out in range(10)]
    assert inception_score(logits, seed=3).half_width == pytest.approx(half_width(without), rel=1e-9)


def test_shuffled_splits_do_not_depend_on_classes_in_turns() -> None:
    sure = np.repeat(50.0 * np.eye(4, dtype=np.float32), 30, 0)
    assert shuffled_inception_score(sure, 0).value > 3


def test_neighbours_are_those_of_brute_force(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tools.evaluate.features.pairs.ROWS", 7)
    made, real = gaussian(0, 40, 3).astype(np.float32), gaussian(1, 50, 3, 0.4).astype(np.float32)
    found = neighbours(made, real)
    precision, recall = precision_recall(made.astype(float), real.astype(float), 3)
    assert (found.precision, found.recall) == (precision, recall)
    apart = np.linalg.norm(real[:, None] - real[None], axis=-1)
    reach = np.sort(apart, axis=1)[:, 5]
    between = np.linalg.norm(made[:, None] - real[None], axis=-1)
    assert found.density == pytest.approx((between <= reach).sum() / (5 * 40))
    assert found.coverage == pytest.approx((between.min(0) <= reach).mean())
    same = neighbours(real, real)
    assert (same.precision, same.recall, same.coverage) == (1, 1, 1)


def test_extrapolation_takes_away_most_of_the_bias() -> None:
    reference = Reference(np.zeros(8), np.eye(8))
    made = [gaussian(seed, 200, 8) for seed in range(40)]
    biased = np.mean([reference.distance(sums(features)) for features in made])
    extrapolated = np.mean([without_bias(features, reference, seed) for seed, features in enumerate(made)])
    assert biased > 0.1
    assert abs(extrapolated) < biased / 4


def test_published_statistics_are_read_and_others_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "ref.npz", mu=np.zeros(3), sigma=np.eye(3))
    assert read_reference(tmp_path / "ref.npz", 3).distance(sums(gaussian(0, 5000, 3))) < 0.05
    with pytest.raises(UserError, match=r"shapes \(4,\) and \(4, 4\), not \(3,\)"):
        read_reference(tmp_path / "ref.npz", 4)
    np.savez(tmp_path / "arrays.npz", arr_0=np.zeros(3))
    with pytest.raises(UserError, match=r"reference=.*expected an npz with mu and sigma"):
        read_reference(tmp_path / "arrays.npz", 3)


def test_the_gaussian_kernel_gives_every_pair_its_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tools.evaluate.features.pairs.ROWS", 3)
    a, b = (gaussian(seed, count).astype(np.float32) for seed, count in ((0, 7), (1, 5)))

    def mean(x: np.ndarray, y: np.ndarray) -> float:
        return float(np.mean([[math.exp(-np.square(p - q).sum() / 8) for q in y] for p in x.astype(float)]))

    expected = mean(a, a) + mean(b, b) - 2 * mean(a, b)
    assert gaussian_mmd(a, b, 2.0).value == pytest.approx(expected, abs=1e-9)
    assert gaussian_mmd(a, a, 2.0).value == pytest.approx(0, abs=1e-12)
