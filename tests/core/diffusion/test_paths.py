"""Paths and predictions against published tables and each other."""

import itertools
import math
from typing import get_args

import pytest
import torch

from core.diffusion.paths import PathName, betas, make_path
from core.diffusion.predictions import Prediction, target, to_data, to_noise

PATHS = get_args(PathName)
GRID = torch.arange(1, 1001, dtype=torch.float64) / 1000


def test_ddpm_linear_is_the_published_table() -> None:
    squared = make_path("ddpm_linear").alpha(GRID) ** 2
    product, expected = 1.0, []
    for i in range(1000):
        product *= 1 - (1e-4 + (0.02 - 1e-4) * i / 999)
        expected.append(product)
    torch.testing.assert_close(squared, torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=0)
    assert float(squared[0]) == pytest.approx(0.9999, abs=1e-9)
    assert float(squared[-1]) == pytest.approx(4.0358e-05, rel=1e-4)


def test_ddpm_cosine_is_the_published_table_with_its_clip() -> None:
    def level(t: float) -> float:
        return math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2

    rates = [min(1 - level((i + 1) / 1000) / level(i / 1000), 0.999) for i in range(1000)]
    torch.testing.assert_close(
        betas("ddpm_cosine"), torch.tensor(rates, dtype=torch.float64), rtol=1e-9, atol=0
    )
    assert float(betas("ddpm_cosine")[-1]) == 0.999
    assert float(betas("ddpm_cosine")[-2]) < 0.999
    squared = make_path("ddpm_cosine").alpha(GRID) ** 2
    torch.testing.assert_close(
        squared[:-1], torch.tensor([level(float(t)) / level(0) for t in GRID[:-1]]).double()
    )
    assert float(squared[-1]) == pytest.approx(float(squared[-2]) * 0.001, rel=1e-6)


@pytest.mark.parametrize("name", ["ddpm_linear", "ddpm_cosine"])
def test_ddpm_between_grid_times_is_a_chain_of_constant_rate(name: PathName) -> None:
    path = make_path(name)
    t = torch.tensor([0.4, 0.4005, 0.401], dtype=torch.float64)
    a, middle, b = path.alpha(t).tolist()
    assert middle == pytest.approx(math.sqrt(a * b), rel=1e-12)
    assert float(path.alpha(torch.tensor(0.0))) == 1
    assert float(path.sigma(torch.tensor(0.0))) == 0


@pytest.mark.parametrize("name", PATHS)
def test_noise_rises_monotonically_and_keeps_the_dtype(name: PathName) -> None:
    path = make_path(name)
    t = torch.linspace(0, 1, 2001, dtype=torch.float64)
    assert (path.alpha(t).diff() < 0).all()
    assert (path.sigma(t).diff() > 0).all()
    assert path.alpha(t.float()).dtype == torch.float32
    torch.testing.assert_close(path.sigma(t.float()), path.sigma(t).float(), rtol=1e-5, atol=1e-7)
    if name != "rectified_flow":
        torch.testing.assert_close(path.alpha(t) ** 2 + path.sigma(t) ** 2, torch.ones_like(t))


def test_time_input_is_the_published_index_on_a_chain() -> None:
    t = torch.tensor([0.001, 0.5, 1.0], dtype=torch.float64)
    torch.testing.assert_close(make_path("ddpm_linear").time_input(t), torch.tensor([0.0, 499, 999]).double())
    torch.testing.assert_close(
        make_path("rectified_flow").time_input(t), torch.tensor([1.0, 500, 1000]).double()
    )


@pytest.mark.parametrize(("name", "kind"), itertools.product(PATHS, get_args(Prediction)))
def test_every_prediction_gives_back_data_and_noise(name: PathName, kind: Prediction) -> None:
    path = make_path(name)
    t = torch.linspace(0.05, 0.95, 7, dtype=torch.float64)
    x0, noise = torch.randn(2, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    alpha, sigma = path.alpha(t), path.sigma(t)
    x_t = alpha * x0 + sigma * noise
    output = target(kind, x0, noise, alpha, sigma)
    torch.testing.assert_close(to_data(kind, output, x_t, alpha, sigma), x0, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(to_noise(kind, output, x_t, alpha, sigma), noise, rtol=1e-9, atol=1e-9)


def test_flow_and_data_exist_at_pure_noise() -> None:
    x1 = torch.tensor([0.7])
    assert float(to_data("flow", torch.tensor([0.2]), x1, 0.0, 1.0)) == pytest.approx(0.5)
    assert float(to_noise("data", torch.tensor([0.2]), x1, 0.0, 1.0)) == pytest.approx(0.7)
