"""Paths and predictions against published tables and each other."""

from __future__ import annotations

import itertools
import math
from pathlib import Path as File
from typing import Any

import pytest
import torch

from core.diffusion.objectives.config import ObjectiveConfig
from core.diffusion.paths.chain import betas
from core.diffusion.paths.config import PathRecord, ScheduleConfig, path_record
from core.diffusion.paths.kinds import make_path
from core.diffusion.paths.path import Path, PathName
from core.diffusion.predictions import Prediction, target, to_data, to_noise
from core.errors import UserError
from tests.core.diffusion.every_path import CHAINS, KINDS, PATHS, before

GRID = torch.arange(1, 1001, dtype=torch.float64) / 1000


def made(name: PathName, **schedule: Any) -> Any:
    return make_path(path_record(name, ScheduleConfig(**schedule)))


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


@pytest.mark.parametrize(
    ("name", "theirs", "ends"),
    [
        ("ddpm_linear", "linear", (1e-4, 0.02)),
        ("ddpm_scaled_linear", "scaled_linear", (0.00085, 0.012)),
        ("ddpm_sigmoid", "sigmoid", (1e-4, 0.02)),
        ("ddpm_cosine", "squaredcos_cap_v2", (1e-4, 0.02)),
    ],
)
@pytest.mark.parametrize("zero", [False, True])
def test_chains_are_those_of_diffusers(
    name: PathName, theirs: str, ends: tuple[float, float], zero: bool
) -> None:
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.DDPMScheduler(
        beta_schedule=theirs, beta_start=ends[0], beta_end=ends[1], rescale_betas_zero_snr=zero
    )
    squared = made(name, zero_terminal_snr=zero).alpha(GRID) ** 2
    torch.testing.assert_close(squared.float(), scheduler.alphas_cumprod, rtol=2e-4, atol=1e-7)


@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.parametrize("steps", [250, 1000, 4000])
def test_a_chain_has_its_steps_and_is_a_chain_of_constant_rate_between_them(
    name: PathName, steps: int
) -> None:
    path = made(name, steps=steps)
    assert path.num_steps == steps
    t = torch.tensor([100.0, 100.5, 101.0], dtype=torch.float64) / steps
    a, middle, b = path.alpha(t).tolist()
    assert middle == pytest.approx(math.sqrt(a * b), rel=1e-12)
    assert float(path.alpha(torch.tensor(0.0))) == 1
    assert float(path.sigma(torch.tensor(0.0))) == 0
    grid = torch.arange(1, steps + 1, dtype=torch.float64) / steps
    torch.testing.assert_close(path.time_of(torch.log(path.sigma(grid) / path.alpha(grid)) - 1e-9), grid)


@pytest.mark.parametrize("steps", [250, 4000])
def test_another_number_of_steps_is_nearly_the_same_noise(steps: int) -> None:
    """log(1 - beta) is -beta - beta^2 / 2: rates stretched to other steps differ by the second term."""
    for name in CHAINS:
        usual, other = make_path(name), made(name, steps=steps)
        for t in (0.1, 0.4, 0.7):
            at = torch.tensor(t, dtype=torch.float64)
            found = abs(float(torch.log(other.alpha(at) / usual.alpha(at))))
            expected = abs(_second_term(other, steps, t) - _second_term(usual, 1000, t))
            assert found <= 1.1 * expected + 0.002, (name, t)


def _second_term(path: Path, steps: int, t: float) -> float:
    """Return the sum of beta^2 / 4 up to a time."""
    alpha = path.alpha(torch.arange(round(t * steps) + 1, dtype=torch.float64) / steps)
    return float((1 - (alpha[1:] / alpha[:-1]) ** 2).square().sum() / 4)


@pytest.mark.parametrize("name", CHAINS)
def test_zero_terminal_snr_keeps_the_first_level_and_ends_without_signal(name: PathName) -> None:
    plain, path = make_path(name), made(name, zero_terminal_snr=True)
    ends = torch.tensor([0.001, 1.0], dtype=torch.float64)
    first, last = path.alpha(ends).tolist()
    assert first == pytest.approx(float(plain.alpha(ends)[0]), rel=1e-12)
    assert last == 0
    assert float(path.sigma(ends)[1]) == 1
    moved = (
        plain.alpha(GRID) - plain.alpha(ends)[1]
    )  # alpha moved and stretched: differences keep their ratios
    torch.testing.assert_close(path.alpha(GRID) / first, moved / moved[0], rtol=1e-9, atol=1e-12)
    inner = torch.linspace(0.9985, 1, 301, dtype=torch.float64)
    assert (path.alpha(inner).diff() < 0).all()
    middle = path.alpha(torch.tensor([0.999, 0.9995], dtype=torch.float64)).tolist()
    assert middle[1] == pytest.approx(middle[0] / 2, rel=1e-9)  # the last step is linear in alpha


@pytest.mark.parametrize("name", ["variance_exploding", "edm"])
def test_exploding_paths_are_the_published_marginals_from_the_data_on(name: PathName) -> None:
    least, most = {"variance_exploding": (0.01, 50.0), "edm": (0.002, 80.0)}[name]
    path = make_path(name)
    for t in (0.0, 1e-6, 0.003, 0.2, 0.7, 1.0):
        if name == "edm":
            g = (least ** (1 / 7) + t * (most ** (1 / 7) - least ** (1 / 7))) ** 7
        else:
            g = least * (most / least) ** t
        expected = math.sqrt(max(0.0, g * g - least * least))
        found = float(path.sigma(torch.tensor(t, dtype=torch.float64)))
        assert found == pytest.approx(expected, rel=1e-8, abs=1e-9), t
    t = torch.linspace(path.first, 1, 100, dtype=torch.float64)
    torch.testing.assert_close(path.time_of(path.sigma(t).log()), t, rtol=1e-9, atol=1e-12)
    assert float(path.sigma(torch.tensor(path.first, dtype=torch.float64))) == pytest.approx(least, rel=1e-9)
    ends = path.time_of(torch.tensor([-99.0, 99.0], dtype=torch.float64))
    assert ends.tolist() == [path.first, 1.0]


@pytest.mark.parametrize("name", PATHS)
def test_noise_rises_monotonically_and_keeps_the_dtype(name: PathName) -> None:
    path = make_path(name)
    t = torch.linspace(0, 1, 2001, dtype=torch.float64)
    if path.scales_input:
        assert (path.alpha(t) == 1).all()
    else:
        assert (path.alpha(t).diff() < 0).all()
    assert (path.sigma(t).diff() > 0).all()
    assert path.alpha(t.float()).dtype == torch.float32
    torch.testing.assert_close(path.sigma(t.float()), path.sigma(t).float(), rtol=1e-5, atol=1e-7)
    if name in CHAINS:
        torch.testing.assert_close(path.alpha(t) ** 2 + path.sigma(t) ** 2, torch.ones_like(t))


def test_time_input_is_the_published_index_on_a_chain() -> None:
    t = torch.tensor([0.001, 0.5, 1.0], dtype=torch.float64)
    torch.testing.assert_close(make_path("ddpm_linear").time_input(t), torch.tensor([0.0, 499, 999]).double())
    torch.testing.assert_close(
        make_path("rectified_flow").time_input(t), torch.tensor([1.0, 500, 1000]).double()
    )


@pytest.mark.parametrize(("name", "kind"), itertools.product(PATHS, KINDS))
def test_every_prediction_gives_back_data_and_noise(name: PathName, kind: Prediction) -> None:
    """In float64, wherever signal and noise are at least 1e-3; errors beside the size of x_t."""
    path = make_path(name)
    t = torch.linspace(0, 1, 999, dtype=torch.float64)
    t = t[(path.alpha(t) >= 1e-3) & (path.sigma(t) >= 1e-3)]
    x0, noise = torch.randn(2, len(t), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    alpha, sigma, lower = path.alpha(t), path.sigma(t), before(path, t)
    x_t = alpha * x0 + sigma * noise
    output = target(kind, x0, noise, alpha, sigma, lower)
    largest = torch.maximum(x_t.abs(), torch.ones_like(x_t)) * torch.maximum(1 / alpha, 1 / sigma).sqrt()
    for found, expected in (
        (to_data(kind, output, x_t, alpha, sigma, lower), x0),
        (to_noise(kind, output, x_t, alpha, sigma, lower), noise),
    ):
        assert float(((found - expected).abs() / largest).max()) <= 1e-11


def test_flow_and_data_exist_at_pure_noise() -> None:
    x1 = torch.tensor([0.7])
    assert float(to_data("flow", torch.tensor([0.2]), x1, 0.0, 1.0)) == pytest.approx(0.5)
    assert float(to_noise("data", torch.tensor([0.2]), x1, 0.0, 1.0)) == pytest.approx(0.7)


def test_the_edm_prediction_is_what_its_preconditioning_trains() -> None:
    """With c_skip and c_out of 2206.00364, table 1, for data of deviation 1: F = (x0 - c_skip x) / c_out."""
    sigma = torch.tensor([0.002, 0.3, 1.0, 80.0], dtype=torch.float64)
    x0, noise = torch.randn(2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    skip, out = 1 / (sigma**2 + 1), sigma / (sigma**2 + 1).sqrt()
    expected = (x0 - skip * (x0 + sigma * noise)) / out
    torch.testing.assert_close(target("edm", x0, noise, torch.ones_like(sigma), sigma), expected)


def test_the_posterior_mean_is_that_of_the_chain() -> None:
    rates = betas("ddpm_linear")
    i = 400  # t = 0.401
    bar, bar_before = torch.cumprod(1 - rates, 0)[i], torch.cumprod(1 - rates, 0)[i - 1]
    x0, noise, path = torch.tensor(0.3).double(), torch.tensor(-1.1).double(), make_path("ddpm_linear")
    x_t = bar.sqrt() * x0 + (1 - bar).sqrt() * noise
    expected = bar_before.sqrt() * rates[i] / (1 - bar) * x0  # 2006.11239, eq. 7
    expected += (1 - rates[i]).sqrt() * (1 - bar_before) / (1 - bar) * x_t
    t = torch.tensor(0.401, dtype=torch.float64)
    found = target("posterior_mean", x0, noise, path.alpha(t), path.sigma(t), before(path, t))
    assert float(found) == pytest.approx(float(expected), rel=1e-9)


def test_a_file_of_rates_is_a_path(tmp_path: File) -> None:
    file = tmp_path / "rates.txt"
    file.write_text("\n".join(repr(rate) for rate in betas("ddpm_linear").tolist()))
    record = path_record("ddpm_file", ScheduleConfig(betas=str(file)))
    assert torch.equal(make_path(record).alpha(GRID), make_path("ddpm_linear").alpha(GRID))
    assert record.steps == 1000
    assert PathRecord.of("ddpm_file", record.parameters()) == record
    assert "rates=those with hash" in record.shown
    file.unlink()
    assert path_record("ddpm_file", ScheduleConfig(betas=str(file)), record.rates) == record


@pytest.mark.parametrize("name", PATHS)
def test_a_record_gives_its_path_again(name: PathName) -> None:
    record = path_record(name)
    assert PathRecord.of(name, record.parameters()) == record == PathRecord.of(name, None)
    assert record.shown == name


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0.1\n0.2\n1.0\n", r"betas=1.0: expected a number between 0 and 1, both excluded, in line 3 of"),
        ("0.1\n\nnan\n", r"betas=nan: expected .* in line 3"),
        ("0.1\nhello\n", "betas=hello: expected a number"),
        ("0.1\n", "expected 2 to 100000 rates, one in each line; it has 1"),
    ],
)
def test_a_file_that_is_no_chain_is_refused(tmp_path: File, text: str, message: str) -> None:
    file = tmp_path / "rates.txt"
    file.write_text(text)
    with pytest.raises(UserError, match=message):
        path_record("ddpm_file", ScheduleConfig(betas=str(file)))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"path": "edm", "schedule": {"steps": 10}}, "schedule.steps=10: expected its default with path=edm"),
        ({"schedule": {"zero_terminal_snr": True}}, "schedule.zero_terminal_snr=True: expected its default"),
        ({"path": "ddpm_cosine", "schedule": {"beta_last": 0.1}}, "which has no such parameter"),
        ({"path": "ddpm_file"}, "schedule.betas='': expected a file with a rate in each line"),
        ({"path": "ddpm_linear", "schedule": {"steps": 10}}, "rates that rise within"),
        ({"path": "ddpm_linear", "schedule": {"beta_first": 0.1}}, "rates that rise within"),
        ({"path": "edm", "schedule": {"sigma_max": 0.001}}, "at least twice sigma_min=0.002"),
        ({"prediction": "posterior_mean"}, "path=rectified_flow is no chain"),
        (
            {"prediction": "data", "loss_space": "posterior_mean"},
            "loss_space=posterior_mean: expected another",
        ),
        ({"path": "edm", "prediction": "v"}, "prediction=v: expected edm"),
        ({"prediction": "score"}, "loss_space='': expected noise with prediction=score"),
        (
            {"path": "ddpm_linear", "prediction": "noise", "schedule": {"zero_terminal_snr": True}},
            "prediction=noise: expected v, data, flow or edm with schedule.zero_terminal_snr",
        ),
    ],
)
def test_what_is_no_path_or_goes_with_none_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ObjectiveConfig(**fields | {"schedule": ScheduleConfig(**fields.get("schedule", {}))})
