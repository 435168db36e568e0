"""Solvers that add noise of their own, against recursions for Gaussian data that are written anew."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

import pytest
import torch

from core.diffusion.grids import make_grid
from core.diffusion.paths.kinds import make_path
from core.diffusion.paths.path import Path, PathName
from core.diffusion.solvers.kinds import KINDS, SolverName, require_taken
from core.diffusion.solvers.levels import ChurnConfig, CorrectorConfig, Options, RestartConfig
from core.errors import UserError
from tests.core.diffusion.every_path import PATHS
from tests.core.diffusion.test_solver_recursion import (
    MEAN,
    VARIANCE,
    Affine,
    coefficients,
    denoise,
    gain,
    level_of,
    require_close,
)

DRAWS = 60  # more than any case makes
Pair = tuple[float, float]


def moments(solver: SolverName, options: Options, path: Path, times: Sequence[float]) -> Affine:
    """Find a, b and w of a solver by running it on a batch: one unit of each draw, of the start, and none."""
    start = torch.zeros(DRAWS + 2, dtype=torch.float64)
    start[-1] = 1.0

    def unit(number: int) -> torch.Tensor:
        return torch.eye(DRAWS + 2, dtype=torch.float64)[number]

    end = KINDS[solver].solve(denoise, start, times, path, noise=unit, options=options)
    zero = float(end[-2])
    return Affine(float(end[-1]) - zero, zero, float((end[:-2] - zero).square().sum()))


def then(state: Affine, scale: float, shift: float = 0.0, drawn: float = 0.0) -> Affine:
    """Return scale x + shift + drawn z."""
    return Affine(scale * state.a, scale * state.b + shift, scale**2 * state.w + drawn**2)


def maruyama(pairs: Iterator[tuple[Pair, Pair]], eta: float) -> Affine:
    state = Affine()
    for (alpha, sigma), (alpha_s, sigma_s) in pairs:
        whole, whole_s = alpha + sigma, alpha_s + sigma_s
        h, more = sigma / whole - sigma_s / whole_s, eta if sigma_s else 0.0
        # z - h (noise - data) - eta h noise, where noise = (x - alpha data) / sigma
        keep = whole_s * (1 / whole - h * (1 + more) / sigma)
        take = whole_s * (h + h * (1 + more) * alpha / sigma)
        drawn = whole_s * math.sqrt(2 * more * sigma / whole * h)
        state = state.moved(keep, data=gain(alpha, sigma), by=take, drawn=drawn)
    return state


def corrected(pairs: Iterator[tuple[Pair, Pair]], eta: float, corrector: CorrectorConfig) -> Affine:
    state = Affine()
    for (alpha, sigma), (alpha_s, sigma_s) in pairs:
        forward = sigma**2 - (alpha / alpha_s) ** 2 * sigma_s**2
        drawn = eta * math.sqrt(forward) * sigma_s / sigma
        kept = math.sqrt(sigma_s**2 - drawn**2) / sigma
        state = state.moved(kept, data=gain(alpha, sigma), by=alpha_s - kept * alpha, drawn=drawn)
        for _ in range(corrector.steps if sigma_s else 0):
            e = 2 * (corrector.size * sigma_s) ** 2
            # x + e score + sqrt(2 e) z, with score = -(x - alpha data) / sigma^2
            by = e * alpha_s / sigma_s**2
            data = gain(alpha_s, sigma_s)
            state = state.moved(1 - e / sigma_s**2, data=data, by=by, drawn=math.sqrt(2 * e))
    return state


def heun(level: Pair, level_s: Pair) -> Pair:
    """Return m and n of Heun's step x -> m x + n from a level to another, by its two stages."""

    def slope(x: float, alpha: float, sigma: float) -> float:
        g, c = gain(alpha, sigma)
        data = g * x + c
        return (x - alpha * data) / sigma - data

    def step(x: float) -> float:
        whole, whole_s = sum(level), sum(level_s)
        h = level_s[1] / whole_s - level[1] / whole
        first = slope(x, *level)
        if level_s[1] == 0:
            return (x / whole + h * first) * whole_s
        second = slope((x / whole + h * first) * whole_s, *level_s)
        return (x / whole + h / 2 * (first + second)) * whole_s

    return step(1.0) - step(0.0), step(0.0)


def churned(path: Path, levels: Sequence[Pair], churn: ChurnConfig) -> Affine:
    state, count = Affine(), len(levels) - 1
    factor = 1 + min(churn.amount / count, math.sqrt(2) - 1)
    ((top_alpha, top_sigma),) = coefficients(path, [1.0])
    for (alpha, sigma), below in pairwise(levels):
        here = alpha, sigma
        ratio = sigma / alpha if alpha else math.inf
        fits = top_alpha == 0 or factor * ratio <= top_sigma / top_alpha
        if alpha and churn.low <= ratio <= churn.high and fits:
            log_ratio = math.log(factor * ratio)
            raised = level_of(path, log_ratio, lambda a, s: math.log(s / a) if a and s else -math.inf)
            grown = raised[0] / alpha
            drawn = churn.noise * math.sqrt(raised[1] ** 2 - (grown * sigma) ** 2)
            state, here = then(state, grown, 0.0, drawn), raised
        state = then(state, *heun(here, below))
    return state


def restarted(levels: Sequence[Pair], first: int, last: int, times: int) -> Affine:
    def down(state: Affine, start: int, end: int) -> Affine:
        for number in range(start, end):
            state = then(state, *heun(levels[number], levels[number + 1]))
        return state

    state = down(Affine(), 0, last)
    (high, high_sigma), (low, low_sigma) = levels[first], levels[last]
    for _ in range(times):
        state = then(state, high / low, 0.0, math.sqrt(high_sigma**2 - (high / low * low_sigma) ** 2))
        state = down(state, first, last)
    return down(state, last, len(levels) - 1)


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("grid", ["even", "straight"])
def test_noisy_solvers_follow_their_recursion(name: PathName, grid: str) -> None:
    path = make_path(name)
    times = make_grid(grid, path, 10, 1.0)  # type: ignore[arg-type]
    levels = coefficients(path, times)
    for eta in (0.3, 1.0):
        require_close(
            moments("euler_maruyama", Options(eta=eta), path, times), maruyama(pairwise(levels), eta)
        )
    corrector = CorrectorConfig(steps=2, size=0.2)
    for eta in (0.0, 0.6):
        options = Options(eta=eta, corrector=corrector)
        require_close(moments("langevin", options, path, times), corrected(pairwise(levels), eta, corrector))
    for churn in (ChurnConfig(amount=3), ChurnConfig(amount=40, low=0.05, high=2.0, noise=1.003)):
        require_close(moments("edm", Options(churn=churn), path, times), churned(path, levels, churn))
    first, last = (min(range(10), key=lambda n, t=t: abs(times[n] - t)) for t in (0.6, 0.2))  # type: ignore[misc]
    options = Options(restart=RestartConfig(high=0.6, low=0.2, times=3))
    require_close(moments("restart", options, path, times), restarted(levels, first, last, 3))


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_the_ancestral_variance_is_interpolated_by_its_logarithm(name: PathName, share: float) -> None:
    path = make_path(name)
    times = make_grid("even", path, 10, 1.0)
    state = Affine()
    for (alpha, sigma), (alpha_s, sigma_s) in pairwise(coefficients(path, times)):
        ratio = alpha / alpha_s
        forward = sigma**2 - (ratio * sigma_s) ** 2
        small = forward * sigma_s**2 / sigma**2
        drawn = small ** ((1 - share) / 2) * forward ** (share / 2) if sigma_s else 0.0
        keep, take = ratio * sigma_s**2 / sigma**2, alpha_s * forward / sigma**2
        state = state.moved(keep, data=gain(alpha, sigma), by=take, drawn=drawn)
    options = Options(variance="interpolated", variance_share=share)
    require_close(moments("ddpm", options, path, times), state)


def test_in_the_limit_of_many_steps_samples_have_the_moments_of_the_data() -> None:
    """By the recursions, which the solvers follow; the SDE with weak order 1."""
    path = make_path("rectified_flow")
    for eta in (0.5, 1.0):
        errors = []
        for steps in (200, 400):
            levels = coefficients(path, make_grid("even", path, steps, 1.0))
            found = maruyama(pairwise(levels), eta)
            errors.append(abs(found.a**2 + found.w - VARIANCE))
            assert found.b == pytest.approx(MEAN, abs=0.01)
        assert errors[1] < 0.01
        assert errors[1] < errors[0] / 1.7
    levels = coefficients(path, make_grid("even", path, 400, 1.0))
    others = (
        corrected(pairwise(levels), 0.0, CorrectorConfig()),
        churned(path, levels, ChurnConfig(amount=40)),
        restarted(levels, 200, 360, 2),
    )
    for found in others:
        assert found.a**2 + found.w == pytest.approx(VARIANCE, rel=0.01)
        assert found.b == pytest.approx(MEAN, abs=0.01)


def test_what_a_solver_does_not_read_is_refused() -> None:
    for solver, options, message in (
        (
            "heun",
            Options(churn=ChurnConfig(amount=1)),
            "churn=.*: expected its defaults with solver=heun",
        ),
        (
            "euler",
            Options(eta=0.5),
            "eta=0.5: expected 0 with solver=euler; solver=ddim or",
        ),
        ("ddim", Options(variance="large"), "variance=large: expected auto with solver=ddim; solver=ddpm"),
        ("euler_maruyama", Options(), "eta=0: expected a number above 0"),
    ):
        with pytest.raises(UserError, match=message):
            require_taken(solver, options)  # type: ignore[arg-type]
