"""Solvers on Gaussian data, where each of them is an affine map that a recursion in float64 follows.

For data N(m, v) the estimate of the data is E[x_0 | x_t] = g x_t + c, so that a fixed-step solver keeps x_i =
a_i x_start + b_i + noise of variance w_i. The recursions here are written anew, from the papers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache, partial
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from core.diffusion.grids import make_grid
from core.diffusion.paths.kinds import make_path
from core.diffusion.paths.path import Path, PathName
from core.diffusion.solvers.kinds import KINDS, SolverName
from core.diffusion.solvers.levels import Estimate, Level, Options, noise_to_signal, times_at
from tests.core.diffusion.every_path import PATHS

MEAN, VARIANCE = 0.7, 0.3


def gain(alpha: float, sigma: float) -> tuple[float, float]:
    """Return g and c of E[x_0 | x_t] = g x_t + c."""
    g = alpha * VARIANCE / (alpha**2 * VARIANCE + sigma**2)
    return g, MEAN - g * alpha * MEAN


def denoise(x: Tensor, level: Level) -> Estimate:
    g, c = gain(level.alpha, level.sigma)
    data = g * x + c
    return Estimate(data, (x - level.alpha * data) / level.sigma)


def coefficients(path: Path, times: Sequence[float]) -> list[tuple[float, float]]:
    t = torch.tensor(list(times), dtype=torch.float64)
    return list(zip(path.alpha(t).tolist(), path.sigma(t).tolist(), strict=True))


def level_of(path: Path, value: float, measure: Callable[[float, float], float]) -> tuple[float, float]:
    """Find by bisection where a measure that grows with time has a value."""
    low, high = 0.0, 1.0
    for _ in range(80):
        middle = (low + high) / 2
        ((alpha, sigma),) = coefficients(path, [middle])
        low, high = (middle, high) if measure(alpha, sigma) < value else (low, middle)
    return coefficients(path, [high])[0]


class Affine:
    """x = a x_start + b + noise of variance w, under the operations of solvers."""

    def __init__(self, a: float = 1.0, b: float = 0.0, w: float = 0.0) -> None:
        self.a, self.b, self.w = a, b, w

    def moved(self, scale: float, *, data: tuple[float, float], by: float, drawn: float = 0.0) -> Affine:
        """Return scale x + by E[x_0 | x] + drawn z."""
        g, c = data
        whole = scale + by * g
        return Affine(whole * self.a, whole * self.b + by * c, whole**2 * self.w + drawn**2)


def first_order(path: Path, times: Sequence[float], deviation: Callable[..., tuple[float, float]]) -> Affine:
    """Follow x_s = alpha_s data + kept noise + drawn z.  deviation: gives kept and drawn of a step."""
    state = Affine()
    for (alpha, sigma), (alpha_s, sigma_s) in pairwise(coefficients(path, times)):
        kept, drawn = deviation(alpha, sigma, alpha_s, sigma_s)
        keep = kept / sigma
        state = state.moved(keep, data=gain(alpha, sigma), by=alpha_s - keep * alpha, drawn=drawn)
    return state


def ddim_of(eta: float) -> Callable[..., tuple[float, float]]:
    def deviation(alpha: float, sigma: float, alpha_s: float, sigma_s: float) -> tuple[float, float]:
        forward = sigma**2 - (alpha / alpha_s) ** 2 * sigma_s**2
        drawn = eta * math.sqrt(forward) * sigma_s / sigma
        return math.sqrt(sigma_s**2 - drawn**2), drawn

    return deviation


def renoised(alpha: float, sigma: float, alpha_s: float, sigma_s: float) -> tuple[float, float]:
    return 0.0, sigma_s


def large(alpha: float, sigma: float, alpha_s: float, sigma_s: float) -> tuple[float, float]:
    forward = sigma**2 - (alpha / alpha_s) ** 2 * sigma_s**2
    return sigma_s**2 * (alpha / alpha_s) / sigma, math.sqrt(forward) if sigma_s else 0.0


def sde(alpha: float, sigma: float, alpha_s: float, sigma_s: float) -> tuple[float, float]:
    ratio = alpha * sigma_s / (sigma * alpha_s)  # exp(-h)
    return sigma_s * ratio, sigma_s * math.sqrt(1 - ratio**2)


ONE_STEP: dict[str, tuple[SolverName, Options, Callable[..., tuple[float, float]]]] = {
    "ddim": ("ddim", Options(), ddim_of(0)),
    "ddim 0.4": ("ddim", Options(eta=0.4), ddim_of(0.4)),
    "ddim 1": ("ddim", Options(eta=1.0), ddim_of(1)),
    "euler": ("euler", Options(), ddim_of(0)),
    "ddpm": ("ddpm", Options(), ddim_of(1)),
    "ddpm large": ("ddpm", Options(variance="large"), large),
    "renoise": ("renoise", Options(), renoised),
    "sde": ("sde_dpmpp", Options(), sde),
}


def moments_of(solver: SolverName, options: Options, path: Path, times: Sequence[float]) -> Affine:
    """Find a, b and w of a solver by running it: w from the answer to a unit of each draw alone."""

    def run(start: float, drawn: int = -1) -> float:
        x = torch.full((1,), start, dtype=torch.float64)
        unit = lambda number: torch.full_like(x, float(number == drawn))  # noqa: E731
        return float(KINDS[solver].solve(denoise, x, times, path, noise=unit, options=options))

    zero = run(0.0)
    answers = [run(0.0, number) - zero for number in range(len(times) - 1)]
    return Affine(run(1.0) - zero, zero, sum(answer**2 for answer in answers))


def require_close(found: Affine, expected: Affine) -> None:
    assert found.a == pytest.approx(expected.a, abs=1e-10)
    assert found.b == pytest.approx(expected.b, abs=1e-10)
    assert found.w == pytest.approx(expected.w, abs=1e-10)


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("case", ONE_STEP)
@pytest.mark.parametrize("grid", ["even", "edm"])
def test_one_step_solvers_follow_the_recursion(name: PathName, case: str, grid: Any) -> None:
    path = make_path(name)
    solver, options, deviation = ONE_STEP[case]
    times = make_grid(grid, path, 12, 1.0)
    expected = first_order(path, times, deviation)
    require_close(moments_of(solver, options, path, times), expected)


def test_renoising_the_mean_of_the_data_has_half_of_their_variance_in_the_limit() -> None:
    path = make_path("rectified_flow")
    found = first_order(path, make_grid("log_snr", path, 3000, 1.0), renoised)
    assert found.a**2 + found.w == pytest.approx(VARIANCE / 2, rel=0.02)
    assert found.b == pytest.approx(MEAN, rel=1e-3)


@pytest.mark.parametrize("solver", ["ddpm", "sde_dpmpp", "sde_dpmpp_2m"])
def test_stochastic_solvers_have_the_variance_of_the_data_in_the_limit(solver: SolverName) -> None:
    path = make_path("rectified_flow")
    errors = []
    for steps in (100, 200):
        found = moments_of(solver, Options(), path, make_grid("straight", path, steps, 1.0))
        errors.append(abs(found.a**2 + found.w - VARIANCE))
    assert errors[1] < 0.02
    assert errors[1] < errors[0] / 1.7  # weak order 1 at least


def runge_kutta(path: Path, times: Sequence[float], order: int) -> Affine:
    """Follow Runge-Kutta steps of dz/dr = noise - data for an affine estimate, by stages.

    order: 2 is the midpoint rule, 4 the classical one; 1 stands for Heun's.
    """

    def slope(a: float, b: float, alpha: float, sigma: float) -> tuple[float, float]:
        g, c = gain(alpha, sigma)
        data = g * a, g * b + c
        return (a - alpha * data[0]) / sigma - data[0], (b - alpha * data[1]) / sigma - data[1]

    state = (1.0, 0.0)
    for (alpha, sigma), (alpha_s, sigma_s) in pairwise(coefficients(path, times)):
        total, total_s = alpha + sigma, alpha_s + sigma_s
        r, r_s = sigma / total, sigma_s / total_s
        middle = level_of(path, (r + r_s) / 2, lambda a, s: s / (a + s))
        z = state[0] / total, state[1] / total
        step, whole = r_s - r, sum(middle)
        k1 = slope(*state, alpha, sigma)
        k2 = slope(*((p + step / 2 * q) * whole for p, q in zip(z, k1, strict=True)), *middle)
        ks, weights = [k2], [1.0]
        if order == 1:  # Heun's: the mean of the slopes at both ends, Euler's step to t = 0
            ks, weights = [k1], [1.0]
            if sigma_s > 0:
                end = slope(*((p + step * q) * total_s for p, q in zip(z, k1, strict=True)), alpha_s, sigma_s)
                ks, weights = [k1, end], [0.5, 0.5]
        if order == 4 and sigma_s > 0:
            k3 = slope(*((p + step / 2 * q) * whole for p, q in zip(z, k2, strict=True)), *middle)
            k4 = slope(*((p + step * q) * total_s for p, q in zip(z, k3, strict=True)), alpha_s, sigma_s)
            ks, weights = [k1, k2, k3, k4], [1 / 6, 1 / 3, 1 / 3, 1 / 6]
        moved = [sum(w * k[part] for w, k in zip(weights, ks, strict=True)) for part in (0, 1)]
        state = tuple((z[part] + step * moved[part]) * total_s for part in (0, 1))  # type: ignore[assignment]
    return Affine(*state)


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize(("solver", "order"), [("heun", 1), ("midpoint", 2), ("rk4", 4)])
def test_runge_kutta_solvers_follow_their_stages(name: PathName, solver: SolverName, order: int) -> None:
    path = make_path(name)
    times = make_grid("even", path, 9, 1.0)
    require_close(moments_of(solver, Options(), path, times), runge_kutta(path, times, order))


def integrals(alpha_s: float, h: float) -> list[float]:
    """Return alpha_s times the integrals of exp(u - h) u^k over [0, h], k = 0, 1, 2, by quadrature."""
    nodes, weights = (torch.from_numpy(each) for each in np.polynomial.legendre.leggauss(40))
    u = (nodes + 1) * h / 2
    return [float(alpha_s * (weights * h / 2 * torch.exp(u - h) * u**k).sum()) for k in range(3)]


def exponential(path: Path, times: Sequence[float]) -> Affine:
    """Follow the exact flow for the polynomial through the last three estimates, in l = log(alpha / sigma).

    A step with one estimate alone is taken again for the line to the estimate at its end.
    """
    history: list[tuple[float, float, float]] = []  # l, and the estimate's a and b
    state, again = (1.0, 0.0), None
    for (alpha, sigma), (alpha_s, sigma_s) in pairwise(coefficients(path, times)):
        g, c = gain(alpha, sigma)
        data = g * state[0], g * state[1] + c
        here = math.log(alpha / sigma) if alpha else -math.inf
        history = [*history, (here, *data)][-3:] if alpha else []
        if again is not None:
            state, again = again([history[-2], history[-1]]), None
        keep, take = sigma_s / sigma, alpha_s - sigma_s / sigma * alpha
        if alpha == 0 or sigma_s == 0:
            state = keep * state[0] + take * data[0], keep * state[1] + take * data[1]
            continue
        step = partial(_exact, state=state, here=here, alpha_s=alpha_s, keep=keep, sigma_s=sigma_s)
        if len(history) == 1:
            again = step
        state = step(history)
    return Affine(*state)


def _exact(
    points: Sequence[tuple[float, float, float]],
    state: tuple[float, float],
    here: float,
    alpha_s: float,
    keep: float,
    sigma_s: float,
) -> tuple[float, float]:
    """Return the state after a step for the polynomial through these estimates."""
    size = len(points)
    matrix = torch.tensor(
        [[(each[0] - here) ** k for k in range(size)] for each in points], dtype=torch.float64
    )
    polynomial = torch.linalg.solve(matrix, torch.tensor([each[1:] for each in points], dtype=torch.float64))
    found = (
        torch.tensor(integrals(alpha_s, math.log(alpha_s / sigma_s) - here)[:size], dtype=torch.float64)
        @ polynomial
    )
    return keep * state[0] + float(found[0]), keep * state[1] + float(found[1])


@pytest.mark.parametrize("name", PATHS)
def test_the_multistep_solver_of_order_3_is_exact_for_the_parabola_through_its_estimates(
    name: PathName,
) -> None:
    path = make_path(name)
    times = make_grid("log_snr", path, 14, 0.98)
    found, expected = moments_of("dpmpp_3m", Options(), path, times), exponential(path, times)
    assert found.a == pytest.approx(expected.a, abs=1e-10)
    assert found.b == pytest.approx(expected.b, abs=1e-10)


def corrected_once(path: Path, times: Sequence[float]) -> Affine:
    """Follow UniPC of order 1: ddim, corrected to the mean of the estimates at both ends of a step."""
    state, before = Affine(), None
    for (alpha, sigma), (alpha_s, sigma_s) in pairwise(coefficients(path, times)):
        g, c = gain(alpha, sigma)
        data = g * state.a, g * state.b + c
        if before is not None:
            (a, b), keep, take, first = before
            state = Affine(
                keep * a + take / 2 * (first[0] + data[0]), keep * b + take / 2 * (first[1] + data[1])
            )
        keep, take = sigma_s / sigma, alpha_s - sigma_s / sigma * alpha
        before = ((state.a, state.b), keep, take, data) if alpha > 0 and sigma_s > 0 else None
        state = Affine(keep * state.a + take * data[0], keep * state.b + take * data[1])
    return state


@pytest.mark.parametrize("name", PATHS)
def test_unipc_of_order_1_follows_its_recursion(name: PathName) -> None:
    path = make_path(name)
    times = make_grid("even", path, 11, 1.0)
    require_close(moments_of("unipc_1", Options(), path, times), corrected_once(path, times))


def second_order(path: Path, times: Sequence[float], *, multistep: bool, random: bool = False) -> Affine:
    """Follow 2M, with the last two estimates, or 2S, with one half-way in l; of the SDE where `random`."""
    state, before = (
        Affine(),
        None,
    )  # before: the last estimate as a gain of the start and a constant, and its h
    for (alpha, sigma), (alpha_s, sigma_s) in pairwise(coefficients(path, times)):
        g, c = gain(alpha, sigma)
        data = g * state.a, g * state.b + c
        is_inner = alpha > 0 and sigma_s > 0
        h = math.log(alpha_s / sigma_s) - math.log(alpha / sigma) if is_inner else math.inf
        shrink = alpha * sigma_s / (sigma * alpha_s) if random else 1.0
        keep = sigma_s / sigma * shrink
        take = alpha_s * (1 - shrink**2) if random else alpha_s - keep * alpha
        used = data
        if is_inner and multistep and before is not None and math.isfinite(before[2]):
            ratio = h / (2 * before[2])
            used = tuple(d + ratio * (d - b) for d, b in zip(data, before, strict=False))  # type: ignore[assignment]
        if is_inner and not multistep:
            middle = level_of(
                path, -(math.log(alpha / sigma) + h / 2), lambda a, s: math.log(s / a) if a else math.inf
            )
            half = middle[1] / sigma
            inner = [
                half * at + (middle[0] - half * alpha) * d
                for at, d in zip((state.a, state.b), data, strict=True)
            ]
            g, c = gain(*middle)
            used = g * inner[0], g * inner[1] + c
        state = Affine(keep * state.a + take * used[0], keep * state.b + take * used[1])
        before = (*data, h)
    return state


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize(
    ("solver", "multistep", "random"),
    [("dpmpp_2m", True, False), ("dpmpp_2s", False, False), ("sde_dpmpp_2m", True, True)],
)
def test_solvers_of_second_order_follow_their_recursion(
    name: PathName, solver: SolverName, multistep: bool, random: bool
) -> None:
    """Of the SDE the mean is followed; its draws enter as in the first-order one."""
    path = make_path(name)
    times = make_grid("even", path, 11, 1.0)
    found, expected = (
        moments_of(solver, Options(), path, times),
        second_order(path, times, multistep=multistep, random=random),
    )
    assert found.a == pytest.approx(expected.a, abs=1e-10)
    assert found.b == pytest.approx(expected.b, abs=1e-10)


ORDERS: dict[SolverName, float] = {
    "euler": 0.9,
    "ddim": 0.9,
    "midpoint": 1.8,
    "heun": 1.8,
    "dpmpp_2m": 1.8,
    "dpmpp_2s": 1.8,
    "dpmpp_3m_diffusers": 1.7,
    "unipc_1": 0.9,
    "unipc_2": 1.8,
    "rk4": 3.7,
    "unipc_3": 2.7,
    "dpmpp_3m": 2.7,
}


def mixture(x: Tensor, level: Level) -> Estimate:
    """Return the exact estimate for three Gaussians of variance 0.1."""
    means = torch.tensor([-1.0, 1.5, 0.4], dtype=x.dtype)
    alpha, sigma = (torch.as_tensor(c, dtype=x.dtype).reshape(-1, 1) for c in (level.alpha, level.sigma))
    spread = alpha**2 * 0.1 + sigma**2
    apart = x[:, None] - alpha * means
    share = torch.softmax(-(apart**2) / (2 * spread), dim=1)
    data = (share * (means + alpha * 0.1 * apart / spread)).sum(1)
    return Estimate(data, (x - level.alpha * data) / level.sigma)


def between(solver: SolverName, path: Path, steps: int) -> Tensor:
    """Solve between half log-SNR -2 and 3; return the state before a last step, to t = 0."""
    values = torch.linspace(2.0, -3.0, steps + 1, dtype=torch.float64).tolist()  # of log(sigma / alpha)
    times = [*times_at(path, values, noise_to_signal), 0.0]
    seen: list[Tensor] = []

    def keeping(x: Tensor, level: Level) -> Estimate:
        if level.t == times[-2]:
            seen.append(x)
        return mixture(x, level)

    start = torch.linspace(-3, 3, 256, dtype=torch.float64)
    KINDS[solver].solve(keeping, start, times, path, noise=lambda i: torch.zeros_like(start))
    return seen[-1]  # the first ones may be stages of the step before


@cache
def exactly() -> Tensor:
    """Solve as `between` in so many steps that no error is left."""
    return between("rk4", make_path("rectified_flow"), 3000)


@pytest.mark.parametrize("solver", ORDERS)
def test_errors_fall_with_the_order_of_the_solver(solver: SolverName) -> None:
    path = make_path("rectified_flow")
    counts = (40, 80, 160, 320)
    errors = [float((between(solver, path, count) - exactly()).abs().median()) for count in counts]
    x = torch.tensor([math.log(count) for count in counts], dtype=torch.float64)
    y = torch.tensor([-math.log(error) for error in errors], dtype=torch.float64)
    slope = float(((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum())
    assert slope >= ORDERS[solver], (slope, errors)


@pytest.mark.parametrize("solver", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_state_keeps_its_dtype_and_samples_are_independent(
    solver: SolverName, dtype: torch.dtype
) -> None:
    path = make_path("rectified_flow")
    times = make_grid("even", path, 6, 1.0)
    start = torch.linspace(-2, 2, 8, dtype=dtype)
    drawn = torch.randn(12, 8, generator=torch.Generator().manual_seed(0)).to(dtype)
    whole = KINDS[solver].solve(mixture, start, times, path, noise=lambda i: drawn[i])
    assert whole.dtype == dtype
    assert torch.isfinite(whole).all()
    half = KINDS[solver].solve(mixture, start[:3], times, path, noise=lambda i: drawn[i][:3])
    torch.testing.assert_close(half, whole[:3], rtol=0, atol=1e-5 if dtype == torch.float32 else 1e-12)
