"""The fits of scaling laws on surfaces whose exponents are known."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import pytest

from core.errors import UserError
from tools.sweep import intervals, law, parabolas
from tools.sweep.intervals import Cost
from tools.sweep.law import Points

TRUTH = (1.69, 406.4, 410.7, 0.34, 0.28)  # of Hoffmann et al. (2022)
SURFACES = [TRUTH, (1.0, 300.0, 2000.0, 0.4, 0.35), (0.5, 120.0, 900.0, 0.3, 0.37)]
COST = Cost(6.0, 1.0)


def exponent_of(surface: tuple[float, ...]) -> float:
    """Return the exponent of N* = const * C^exponent."""
    *_, a, b = surface
    return b / (a + b)


def ladder(
    surface: tuple[float, ...],
    *,
    budgets: int = 5,
    sizes: int = 7,
    drift: float = 0.5,
    shift: float = 0.5,
) -> tuple[np.ndarray, Points]:
    """Return budgets C (n,) and points without noise.

    Sizes spread over a factor of 8 each way around a middle that is off the optimum by exp(shift), and
    drifts from it by exp(drift) over the budgets: a ladder of somebody who does not know the optimum yet.
    """
    E, A, B, a, b = surface
    C = np.repeat(np.geomspace(1e18, 1e21, budgets), sizes)
    best = (a * A / (b * B)) ** (1 / (a + b)) * (C / 6) ** (b / (a + b))
    offsets = np.tile(np.linspace(-np.log(8), np.log(8), sizes), budgets)
    away = shift + drift * np.repeat(np.linspace(-1, 1, budgets), sizes)
    N = best * np.exp(offsets + away)
    D = C / 6 / N
    return C, Points(N, D, E + A * N**-a + B * D**-b)


def noisy(points: Points, noise: float, seed: int) -> Points:
    random = np.random.default_rng(seed)
    return points._replace(loss=points.loss * (1 + noise * random.standard_normal(len(points.loss))))


def select(points: Points, rows: Sequence[int]) -> Points:
    return Points(*(column[list(rows)] for column in points))


def by_parabolas(C: np.ndarray, points: Points) -> float:
    found = [parabolas.parabola(c, points.N[c == C], points.loss[c == C]) for c in np.unique(C)]
    grown = parabolas.growth([each for each in found if each is not None])
    assert grown is not None
    return grown.exponent


@pytest.mark.parametrize("surface", SURFACES)
def test_without_noise_the_law_is_found_and_parabolas_are_biased(surface: tuple[float, ...]) -> None:
    C, points = ladder(surface)
    found = law.fit(points)
    assert np.allclose([found.E, found.A, found.B, found.a, found.b], surface, rtol=1e-6)
    assert abs(intervals.growth_exponent(found, COST) - exponent_of(surface)) <= 0.0005
    assert abs(by_parabolas(C, points) - exponent_of(surface)) > (0.002 if surface == TRUTH else 0.0005)


@pytest.mark.parametrize("surface", SURFACES)
def test_with_noise_the_law_is_closer_than_parabolas(surface: tuple[float, ...]) -> None:
    """At 1 % noise the root mean square of its error is at most 0.85 of theirs."""
    C, points = ladder(surface)
    tries = [noisy(points, 0.01, seed) for seed in range(60)]
    found = np.array([intervals.growth_exponent(law.fit(tried), COST) for tried in tries])
    others = np.array([by_parabolas(C, tried) for tried in tries])
    of_law, of_parabolas = (np.sqrt(((each - exponent_of(surface)) ** 2).mean()) for each in (found, others))
    assert of_law <= 0.85 * of_parabolas


def test_a_fit_takes_milliseconds() -> None:
    _, points = ladder(TRUTH)
    tries = [noisy(points, 0.01, seed) for seed in range(30)]

    def seconds(tried: Points) -> float:
        start = time.perf_counter()
        law.fit(tried)
        return time.perf_counter() - start

    assert min(map(seconds, tries)) <= 0.005


def covered(sizes: int, budgets: int, noise: float, seeds: range) -> np.ndarray:
    """Return for each seed whether the intervals hold the exponent, a, b, ln N* and the loss at 4 times the
    largest budget."""
    C, points = ladder(TRUTH, sizes=sizes, budgets=budgets, drift=0.3)
    target = 4 * C.max()
    quantities = [
        lambda found: intervals.growth_exponent(found, COST),
        lambda found: found.a,
        lambda found: found.b,
        lambda found: intervals.best_size(found, COST, target),
        lambda found: intervals.best_loss(found, COST, target),
    ]
    truth = law.fit(points)
    result = []
    for seed in seeds:
        found = law.fit(noisy(points, noise, seed))
        ends = [intervals.interval(found, quantity) for quantity in quantities]
        result.append(
            [
                low <= quantity(truth) <= high
                for (_, low, high), quantity in zip(ends, quantities, strict=True)
            ]
        )
    return np.array(result)


def test_intervals_cover_the_truth_in_most_of_40_trials() -> None:
    assert (covered(5, 4, 0.005, range(40)).sum(0) >= 31).all()


@pytest.mark.full
@pytest.mark.parametrize(("sizes", "budgets", "noise"), [(7, 5, 0.01), (5, 4, 0.005), (4, 3, 0.002)])
def test_intervals_of_90_percent_cover_the_truth_in_86_to_94_of_100(
    sizes: int, budgets: int, noise: float
) -> None:
    share = covered(sizes, budgets, noise, range(500)).mean(0)
    assert share.min() >= 0.86, share
    assert share.max() <= 0.94, share


@pytest.mark.parametrize(("freedom", "expected"), [(1, 6.313752), (5, 2.015048), (30, 1.697261)])
def test_student_quantile_is_the_published_one(freedom: int, expected: float) -> None:
    assert intervals.student_quantile(0.95, freedom) == pytest.approx(expected, abs=1e-5)


def test_the_best_split_of_a_budget_is_a_minimum() -> None:
    _, points = ladder(TRUTH)
    found, cost, budget = law.fit(points), Cost(40.0, 0.9), 1e22
    N = np.exp(intervals.best_size(found, cost, budget))
    D = np.exp(intervals.best_samples(found, cost, budget))
    assert cost.scale * N**cost.exponent * D == pytest.approx(budget)
    best = intervals.best_loss(found, cost, budget)
    others = np.array([0.98, 1.02]) * N
    assert (found.loss(others, budget / (cost.scale * others**cost.exponent)) > best).all()


def test_cost_of_a_family_is_fitted_as_a_power() -> None:
    N = np.array([1e4, 1e5, 1e6])
    found = Cost.of(N, 40 * N**0.9)
    assert (found.scale, found.exponent) == pytest.approx((40, 0.9))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (range(5), "5 parameters: 5 finished runs, at least 6 needed"),
        (range(0, 35, 7), "at least 6 needed"),
        ([0, 1, 7, 8, 14, 15, 21, 28], ""),
    ],
)
def test_too_few_points_are_refused(rows: Sequence[int], message: str) -> None:
    _, points = ladder(TRUTH)
    if not message:
        assert law.fit(select(points, rows)).a == pytest.approx(0.34, abs=1e-6)
        return
    with pytest.raises(UserError, match=message):
        law.fit(select(points, rows))


def test_runs_of_two_sizes_are_refused() -> None:
    N, D = np.repeat([1e6, 1e7], 4), np.tile(np.geomspace(1e6, 1e8, 4), 2)
    with pytest.raises(UserError, match="fewer than 3 different sizes of the network"):
        law.fit(Points(N, D, 1 + 400 * N**-0.3 + 400 * D**-0.3))


def test_losses_that_do_not_fall_with_size_are_refused() -> None:
    _, points = ladder(TRUTH)
    with pytest.raises(UserError, match="do not follow"):
        law.fit(points._replace(loss=1 + 400 * points.D**-0.3))


def test_samples_that_follow_from_the_size_are_collinear() -> None:
    N = np.geomspace(1e6, 1e8, 8)
    with pytest.raises(UserError, match="collinear"):
        law.fit(Points(N, 20 * N, 1 + 400 * N**-0.3))


def test_a_parabola_without_a_minimum_among_its_sizes_has_no_vertex() -> None:
    N = np.geomspace(1e6, 1e8, 5)
    found = parabolas.parabola(1e18, N, 1 + 1 / np.log(N))
    assert found is not None
    assert found.N is None
    assert parabolas.parabola(1e18, N[:2], N[:2]) is None
    assert parabolas.growth([found]) is None
