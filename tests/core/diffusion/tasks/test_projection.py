"""Projection guidance against Gaussian data, whose conditional is known. Run: pytest FILE"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from core.batch import Condition
from core.diffusion.generating import sample
from core.diffusion.paths.config import ScheduleConfig, path_record
from core.diffusion.paths.kinds import make_path
from core.diffusion.paths.path import Path, PathName
from core.diffusion.predictions import Prediction, target
from core.diffusion.sampling import SamplerConfig
from core.diffusion.solvers.levels import Estimate, Level, levels_at
from core.diffusion.tasks.projection import projecting
from core.diffusion.tasks.task import Task
from core.draws import Draws
from core.errors import UserError

SHAPE = (1, 1, 2, 3)  # of a sample: six numbers
KEPT = torch.tensor([1.0, 0, 1, 0, 0, 1]).reshape(1, *SHAPE)
MEAN = torch.linspace(-1, 1, 6, dtype=torch.float64)


def data_covariance() -> Tensor:
    """Correlated, with eigenvalues from 0.1 to 2."""
    generator = torch.Generator().manual_seed(0)
    axes, _ = torch.linalg.qr(torch.randn(6, 6, generator=generator, dtype=torch.float64))
    return axes @ torch.diag(torch.linspace(0.1, 2, 6, dtype=torch.float64)) @ axes.T


COVARIANCE = data_covariance()


def gain(alpha: float, sigma: float) -> Tensor:
    """Of x_t - alpha * mean, to the mean of the data in x_t."""
    of_x = alpha**2 * COVARIANCE + sigma**2 * torch.eye(6, dtype=MEAN.dtype)
    return alpha * COVARIANCE @ torch.linalg.inv(of_x)


def exact(x: Tensor, alpha: float, sigma: float) -> Tensor:
    flat = x.double().flatten(1)
    return (MEAN + (flat - alpha * MEAN) @ gain(alpha, sigma).T).reshape(x.shape).to(x.dtype)


def denoise(x: Tensor, level: Level) -> Estimate:
    data = exact(x, level.alpha, level.sigma)
    return Estimate(data, (x - level.alpha * data) / level.sigma)


def given_known(mean: Tensor, covariance: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean (B, 6) and covariance of a Gaussian whose kept entries are those of `known` (6,)."""
    is_kept = KEPT.flatten() > 0
    across = covariance[:, is_kept] @ torch.linalg.inv(covariance[is_kept][:, is_kept])
    return mean + (known[is_kept] - mean[:, is_kept]) @ across.T, covariance - across @ covariance[is_kept]


def test_the_projected_data_are_the_conditional_mean_of_gaussian_data() -> None:
    x, known = torch.randn(5, *SHAPE, dtype=torch.float64), torch.randn(1, *SHAPE, dtype=torch.float64)
    for level in levels_at(make_path(path_record("rectified_flow", ScheduleConfig())), [0.95, 0.5, 0.05]):
        found = projecting(denoise, known.expand_as(x), KEPT.double(), 3)(x, level)
        mean = exact(x, level.alpha, level.sigma).flatten(1)
        posterior = level.sigma**2 / level.alpha * gain(level.alpha, level.sigma)
        expected, _ = given_known(mean, posterior, known.flatten())
        assert torch.allclose(found.data.flatten(1), expected, atol=1e-8)
        assert torch.allclose(level.alpha * found.data + level.sigma * found.noise, x, atol=1e-12)
        assert not found.data.requires_grad


def network(path: Path, prediction: Prediction) -> object:
    def model(x: Tensor, time: Tensor, condition: Condition) -> Tensor:
        zero, one = path.time_input(torch.tensor([0.0, 1.0], dtype=torch.float64))
        t = (time.double()[0] - zero) / (one - zero)
        alpha, sigma = float(path.alpha(t)), float(path.sigma(t))
        data = exact(x, alpha, sigma)
        return target(prediction, data, (x - alpha * data) / sigma, alpha, sigma)

    return model


@pytest.mark.parametrize(
    ("name", "prediction"), [("rectified_flow", "flow"), ("ddpm_cosine", "v")], ids=["flow", "chain"]
)
def test_samples_have_the_conditional_distribution_of_gaussian_data(
    name: PathName, prediction: Prediction
) -> None:
    path, many = make_path(path_record(name, ScheduleConfig())), 4000
    known = torch.tensor([1.5, 0, -1.0, 0, 0, 0.5]).reshape(1, *SHAPE)
    rows = torch.arange(many)
    draws = Draws(3, 0, rows, torch.zeros_like(rows))
    spread = {}
    for keep in ("projection", "replacement"):
        task = Task(known=known.expand(many, *SHAPE), kept=KEPT.expand(many, 1, *SHAPE[1:]), keep=keep)  # type: ignore[arg-type]
        config = SamplerConfig(solver="heun", steps=60, start=0.999)
        model = network(path, prediction)
        made = sample(model, (many, *SHAPE), Condition(), config, path, prediction, draws, task=task)  # type: ignore[arg-type]
        found = made.double().flatten(1)
        is_kept, wanted = KEPT.flatten() > 0, known.double().flatten()
        assert torch.equal(found[:, is_kept], wanted[is_kept].expand(many, 3))
        mean, covariance = given_known(MEAN[None], COVARIANCE, wanted)
        off = found.mean(0) - mean[0], found.T.cov() - covariance
        spread[keep] = float(off[0].abs().max()), float(off[1].abs().max())
    assert max(spread["projection"]) < 0.08  # the noise of 4,000 samples
    assert spread["replacement"][0] > 2 * spread["projection"][0]


def test_where_there_is_no_signal_only_the_known_part_is_set() -> None:
    x, known = torch.randn(2, *SHAPE), torch.ones(2, *SHAPE)
    calm = lambda x, level: Estimate(0 * x, x)  # noqa: E731
    (level,) = levels_at(make_path(path_record("rectified_flow", ScheduleConfig())), [1.0])
    found = projecting(calm, known, KEPT)(x, level)
    assert torch.equal(found.data, KEPT * known)
    assert torch.equal(found.noise, x)


def test_a_covariance_that_is_none_is_not_followed() -> None:
    x, known = torch.randn(2, *SHAPE), torch.ones(2, *SHAPE)
    against = lambda x, level: Estimate(-x, x)  # noqa: E731
    (level,) = levels_at(make_path(path_record("rectified_flow", ScheduleConfig())), [0.5])
    found = projecting(against, known, KEPT)(x, level)
    assert torch.equal(found.data, KEPT * known + (1 - KEPT) * -x)


@pytest.mark.parametrize(("varies", "is_followed"), [(0.05, False), (0.4, True)])
def test_a_direction_of_hardly_any_variance_is_not_divided_by(varies: float, is_followed: bool) -> None:
    x, known = torch.zeros(1, 1, 1, 1, 2), torch.ones(1, 1, 1, 1, 2)
    matrix = torch.tensor([[varies, 1.0], [1.0, 1.0]])
    linear = lambda x, level: Estimate(x @ matrix, x)  # noqa: E731
    (level,) = levels_at(make_path(path_record("rectified_flow", ScheduleConfig())), [0.5])
    found = projecting(linear, known, torch.tensor([1.0, 0.0]).reshape(x.shape))(x, level)
    free = 1 / varies if is_followed else 0.0
    torch.testing.assert_close(found.data.flatten(), torch.tensor([1.0, free]))


def test_levels_of_their_own_are_refused() -> None:
    level = Level(0.5, torch.tensor(0.5), torch.tensor(0.5), 500.0)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="keep=projection has no form"):
        projecting(denoise, torch.zeros(1, *SHAPE), KEPT)(torch.zeros(1, *SHAPE), level)
