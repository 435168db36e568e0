"""The adaptive solver: the map of its own steps, its tolerance, and steps that are a sample's alone."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from core.batch import Condition
from core.diffusion.generating import sample
from core.diffusion.paths.kinds import make_path
from core.diffusion.paths.path import PathName
from core.diffusion.sampling import SamplerConfig
from core.diffusion.solvers.adaptive import dopri5, integrate
from core.diffusion.solvers.levels import AdaptiveConfig, Estimate, Level, Options, levels_at
from core.diffusion.thresholds import ThresholdConfig
from core.draws import Draws
from core.errors import UserError
from tests.core.diffusion.exact_network import SHAPE, ExactNetwork

MEAN, VARIANCE = 0.7, 0.3
START = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]


def gaussian(x: Tensor, level: Level) -> Estimate:
    spread = level.alpha**2 * VARIANCE + level.sigma**2
    data = MEAN + level.alpha * VARIANCE * (x - level.alpha * MEAN) / spread
    return Estimate(data, (x - level.alpha * data) / level.sigma)


def field(z: Tensor, r: Tensor) -> Tensor:
    """dz/dr of the flow of N(MEAN, VARIANCE) in z = (1 - r) data + r noise, by hand."""
    r = r[:, None]
    spread = (1 - r) ** 2 * VARIANCE + r**2
    return (r - (1 - r) * VARIANCE) / spread * (z - (1 - r) * MEAN) - MEAN


def classical_step(z: float, r: float, h: float) -> float:
    """One step of the pair, from the published tableau, for one number."""

    def f(z: float, r: float) -> float:
        return float(field(torch.tensor([[z]], dtype=torch.float64), torch.tensor([r], dtype=torch.float64)))

    k1 = f(z, r)
    k2 = f(z + h * k1 / 5, r + h / 5)
    k3 = f(z + h * (3 * k1 + 9 * k2) / 40, r + 0.3 * h)
    k4 = f(z + h * (44 / 45 * k1 - 56 / 15 * k2 + 32 / 9 * k3), r + 0.8 * h)
    k5 = f(
        z + h * (19372 * k1 / 6561 - 25360 * k2 / 2187 + 64448 * k3 / 6561 - 212 * k4 / 729), r + 8 / 9 * h
    )
    k6 = f(
        z + h * (9017 * k1 / 3168 - 355 * k2 / 33 + 46732 * k3 / 5247 + 49 * k4 / 176 - 5103 * k5 / 18656),
        r + h,
    )
    return z + h * (35 * k1 / 384 + 500 * k3 / 1113 + 125 * k4 / 192 - 2187 * k5 / 6784 + 11 * k6 / 84)


def exact(z: Tensor, first: float, last: float) -> Tensor:
    """Keep (z - mean) / deviation, as the flow does."""

    def moments(r: float) -> tuple[float, float]:
        return (1 - r) * MEAN, math.sqrt((1 - r) ** 2 * VARIANCE + r**2)

    (m, s), (m_end, s_end) = moments(first), moments(last)
    return m_end + (z - m) * s_end / s


@pytest.mark.parametrize("tolerance", [1e-5, 1e-7])
def test_each_sample_is_the_map_of_its_own_accepted_steps(tolerance: float) -> None:
    found, steps = integrate(field, START, 1.0, 1e-3, tolerance, 200)
    different = set()
    for number, z in enumerate(START[:, 0].tolist()):
        own = steps.of(number)
        different.add(tuple(own))
        for r, h in own:
            z = classical_step(z, r, h)
        assert abs(float(found[number]) - z) < 1e-10
        assert own[0][0] == 1.0
        assert own[-1][0] + own[-1][1] == pytest.approx(1e-3, abs=1e-12)
    assert len(different) > 1


@pytest.mark.parametrize("tolerance", [1e-3, 1e-5, 1e-7, 1e-9])
def test_the_error_is_at_most_ten_times_the_tolerance(tolerance: float) -> None:
    found, steps = integrate(field, START, 1.0, 1e-3, tolerance, 500)
    assert float((found - exact(START, 1.0, 1e-3)).abs().max()) <= 10 * tolerance
    back, _ = integrate(field, found, 1e-3, 1.0, tolerance, 500)  # and up again
    assert float((back - START).abs().max()) <= 20 * tolerance
    assert len(steps.place) < 150


def test_steps_do_not_depend_on_other_samples() -> None:
    whole, steps = integrate(field, START, 1.0, 1e-3, 1e-5, 200)
    alone, own = integrate(field, START[3:4], 1.0, 1e-3, 1e-5, 200)
    torch.testing.assert_close(alone, whole[3:4], rtol=0, atol=1e-14)
    torch.testing.assert_close(torch.tensor(own.of(0)), torch.tensor(steps.of(3)))


@pytest.mark.parametrize("name", ["rectified_flow", "ddpm_linear", "variance_exploding", "edm"])
def test_it_reaches_the_data_on_every_path(name: PathName) -> None:
    path = make_path(name)
    (level,) = levels_at(path, [1.0])
    x = level.alpha * MEAN + START * math.sqrt(level.alpha**2 * VARIANCE + level.sigma**2)
    expected = MEAN + START * math.sqrt(VARIANCE)
    options = Options(adaptive=AdaptiveConfig(tolerance=1e-7))
    found = dopri5(gaussian, x, [1.0, 0.0], path, noise=lambda i: x, options=options)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_samples_of_a_network_agree_with_many_fixed_steps() -> None:
    path, rows = make_path("rectified_flow"), torch.arange(4)
    network = ExactNetwork(path, "data")  # it divides by alpha, which is 0 at t = 1
    draws = Draws(0, 0, rows, torch.zeros_like(rows))

    def made(config: SamplerConfig) -> Tensor:
        condition = Condition(label=torch.tensor([0, 1, 0, 1]))
        config = replace(config, guidance=2.0, start=0.999)
        return sample(network, (4, *SHAPE), condition, config, path, "data", draws)

    own = made(SamplerConfig(solver="dopri5", adaptive=AdaptiveConfig(tolerance=1e-6)))
    torch.testing.assert_close(own, made(SamplerConfig(solver="rk4", steps=50)), rtol=0, atol=1e-3)


def test_too_few_trials_and_settings_by_level_are_named() -> None:
    with pytest.raises(UserError, match=r"most=3: expected more: \d samples are not at their end"):
        integrate(field, START, 1.0, 1e-3, 1e-9, 3)
    expected = r"guidance_end=0\.1: expected 0, since samples of solver=dopri5 have"
    with pytest.raises(UserError, match=expected):
        SamplerConfig(solver="dopri5", guidance=2.0, guidance_end=0.1)
    config, rows = SamplerConfig(solver="dopri5", threshold=ThresholdConfig(kind="static")), torch.arange(1)
    path, draws = make_path("ddpm_linear"), Draws(0, 0, rows, rows)
    network = ExactNetwork(path, "noise")
    with pytest.raises(UserError, match=r"solver=dopri5: expected another for a network .* since samples of"):
        sample(network, (1, *SHAPE), Condition(), config, path, "posterior_mean", draws)
