"""Likelihood and bound on Gaussian data, whose log-density is known, and mixtures of Gaussians."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from core.diffusion.grids import make_grid
from core.diffusion.likelihood import log_likelihood, variational_bound
from core.diffusion.paths.kinds import make_path
from core.diffusion.paths.path import PathName
from core.diffusion.solvers.levels import Estimate, Level, levels_at
from tests.core.diffusion.exact_network import MEANS, SHAPE, SHARES, log_density

PATHS: tuple[PathName, ...] = ("rectified_flow", "ddpm_linear", "edm", "variance_exploding")
SIZE = (1, 1, 2, 3)
SCALE = torch.linspace(0.4, 1.3, 6, dtype=torch.float64).reshape(SIZE)  # deviation of each number
MEAN = torch.linspace(-1, 1, 6, dtype=torch.float64).reshape(SIZE)


def gaussian(x: Tensor, level: Level) -> Estimate:
    """Return the exact estimates, in the dtype of x."""
    mean, scale = MEAN.to(x.dtype), SCALE.to(x.dtype)
    away = (x - level.alpha * mean) / (level.alpha**2 * scale**2 + level.sigma**2)
    return Estimate(mean + level.alpha * scale**2 * away, level.sigma * away)


def drawn(count: int) -> Tensor:
    noise = torch.randn(count, *SIZE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return MEAN + SCALE * noise


def analytic(x: Tensor, name: PathName = "rectified_flow") -> Tensor:
    """Return the log-density of what the exact flow makes of the normal that samples start from.

    It keeps (x - alpha mean) / deviation. Where a start holds signal, as all but rectified flow's do, this is
    not quite the density of the data.
    """
    start = levels_at(make_path(name), [1.0])[0]
    spread = (start.alpha**2 * SCALE**2 + start.sigma**2).sqrt()
    mean = MEAN - start.alpha * MEAN * SCALE / spread
    scale = SCALE / spread * math.hypot(start.alpha, start.sigma)
    scaled = ((x - mean) / scale).square() + 2 * scale.log() + math.log(2 * math.pi)
    return -0.5 * scaled.flatten(1).sum(1)


@pytest.mark.parametrize("name", PATHS)
def test_the_likelihood_is_the_analytic_one(name: PathName) -> None:
    x = drawn(4)
    found = log_likelihood(gaussian, x, make_path(name))
    assert found.log_density.dtype == torch.float64
    assert float((found.log_density - analytic(x, name)).abs().max()) / 6 < 1e-3
    single = log_likelihood(gaussian, x.float(), make_path(name), tolerance=1e-4)
    assert float((single.log_density - analytic(x, name)).abs().max()) / 6 < 2e-3


def test_the_likelihood_of_a_mixture_is_the_analytic_one() -> None:
    modes = torch.ones(1, len(SHARES), dtype=torch.bool)

    def mixture(x: Tensor, level: Level) -> Estimate:
        with torch.enable_grad():
            moved = x if x.requires_grad else x.requires_grad_()
            density = log_density(moved, level.alpha, level.sigma, modes).sum()
            (score,) = torch.autograd.grad(density, moved, create_graph=True)
        noise = -level.sigma * score
        return Estimate((x - level.sigma * noise) / level.alpha.clamp(min=1e-9), noise)  # type: ignore[attr-defined]

    x = MEANS.reshape(-1, *SHAPE) + 0.3
    found = log_likelihood(mixture, x, make_path("rectified_flow"), tolerance=1e-5)
    expected = log_density(x, 1.0, 0.0, modes)
    assert float((found.log_density - expected).abs().max()) / 2 < 1e-3


def test_a_probe_of_signs_is_exact_where_numbers_do_not_depend_on_each_other() -> None:
    x, path = drawn(3), make_path("rectified_flow")
    signs = torch.where(torch.rand(x.shape, generator=torch.Generator().manual_seed(1)) < 0.5, -1.0, 1.0)
    exact, probed = log_likelihood(gaussian, x, path), log_likelihood(gaussian, x, path, probe=signs)
    torch.testing.assert_close(probed.log_density, exact.log_density, rtol=0, atol=1e-6)


def test_probes_estimate_the_trace_of_numbers_that_do() -> None:
    made = torch.randn(6, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    turn = torch.linalg.qr(made).Q
    path, x = make_path("rectified_flow"), drawn(1)

    def turned(x: Tensor, level: Level) -> Estimate:
        found = gaussian((x.flatten(1) @ turn).reshape(x.shape), level)
        data, noise = ((part.flatten(1) @ turn.T).reshape(x.shape) for part in (found.data, found.noise))
        return Estimate(data, noise)

    y = (x.flatten(1) @ turn.T).reshape(x.shape)
    exact = float(log_likelihood(turned, y, path, tolerance=1e-4).log_density)
    assert exact == pytest.approx(float(analytic(x)), abs=6e-3)
    count = 200
    signs = torch.where(torch.rand(count, *SIZE, generator=torch.Generator().manual_seed(3)) < 0.5, -1.0, 1.0)
    probed = log_likelihood(turned, y.expand(count, *SIZE), path, probe=signs, tolerance=1e-4).log_density
    spread = float(probed.std()) / math.sqrt(count)
    assert float(probed.std()) > 1e-3
    assert abs(float(probed.mean()) - exact) < 4 * spread


def twin(x0: np.ndarray, times: list[float], name: PathName, noises: np.ndarray) -> np.ndarray:
    """Return the bound, written anew in float64, by KL divergences of scalars."""
    path, scale, mean = make_path(name), SCALE.numpy(), MEAN.numpy()

    def level(t: float) -> tuple[float, float]:
        at = torch.tensor(t, dtype=torch.float64)
        return float(path.alpha(at)), float(path.sigma(at))

    a, s = level(times[0])
    v = a**2 + s**2
    total = (0.5 * (math.log(v / s**2) + s**2 / v + (a * x0) ** 2 / v - 1)).sum(axis=(1, 2, 3, 4))
    for n, (t, u) in enumerate(pairwise(times)):
        (a_t, s_t), (a_s, s_s) = level(t), level(u)
        x = a_t * x0 + s_t * noises[n]
        guess = mean + a_t * scale**2 * (x - a_t * mean) / (a_t**2 * scale**2 + s_t**2)
        gain = 0.5 * ((a_s / s_s) ** 2 - (a_t / s_t) ** 2)  # half the rise in signal-to-noise ratio
        total = total + (gain * (x0 - guess) ** 2).sum(axis=(1, 2, 3, 4))
    a, s = level(times[-1])
    last = 0.5 * math.log(2 * math.pi * (s / a) ** 2) + 0.5 * noises[len(times) - 1] ** 2
    return total + last.sum(axis=(1, 2, 3, 4))


@pytest.mark.parametrize("name", PATHS)
def test_the_bound_is_its_twin_and_above_the_likelihood(name: PathName) -> None:
    path, x = make_path(name), drawn(40)
    times = make_grid("even", path, 60, 1.0)
    if path.num_steps is None:
        times = [*times[:-1], 1e-3]
    kept = [time for time in times if time > 0]
    noises = torch.randn(len(kept), *x.shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    found = variational_bound(gaussian, x, times, path, noise=lambda n: noises[n])
    expected = twin(x.numpy(), kept, name, noises.numpy())
    torch.testing.assert_close(found.total, torch.from_numpy(expected), rtol=1e-9, atol=1e-9)
    single = variational_bound(gaussian, x.float(), times, path, noise=lambda n: noises[n].float())
    assert single.total.dtype == torch.float32
    torch.testing.assert_close(single.total.double(), found.total, rtol=1e-5, atol=1e-5)
    assert float(found.prior.min()) >= 0
    assert float(found.total.mean()) > float(-analytic(x).mean()) - 0.05


def test_a_learned_variance_between_its_limits_changes_the_steps_alone() -> None:
    path, x = make_path("ddpm_linear"), drawn(3)
    times = make_grid("trailing", path, 20, 1.0)
    noises = torch.randn(20, *x.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)

    def learned(share: float) -> Tensor:
        def denoise(state: Tensor, level: Level) -> Estimate:
            found = gaussian(state, level)
            return Estimate(found.data, found.noise, torch.full_like(state, share))

        return variational_bound(denoise, x, times, path, noise=lambda n: noises[n]).total

    plain = variational_bound(gaussian, x, times, path, noise=lambda n: noises[n]).total
    torch.testing.assert_close(learned(-1.0), plain, rtol=1e-10, atol=1e-10)
    assert not torch.allclose(learned(0.5), plain)
