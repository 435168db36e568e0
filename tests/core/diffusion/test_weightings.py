"""Weights of the squared error: the same loss in every prediction, and the published formulas."""

from __future__ import annotations

import math

import pytest
import torch

from core.batch import Condition
from core.diffusion.objective import Objective
from core.diffusion.objectives.config import ObjectiveConfig
from core.diffusion.objectives.own import LogVariance
from core.diffusion.paths.config import SIGMAS
from core.diffusion.paths.kinds import make_path
from core.diffusion.paths.path import PathName
from core.diffusion.predictions import Prediction, target, to_data, to_noise
from core.diffusion.timesteps import TimestepConfig, draw
from core.diffusion.weightings import Weighting, most_weight, output_weight, space_weight
from core.draws import Draws
from core.errors import UserError
from tests.core.diffusion.every_path import CHAINS, KINDS, PATHS, before

PARAMETERS: dict[Weighting, float] = {"min_snr": 5.0, "p2": 0.7, "edm": 0.5, "sigmoid": -1.3}
TIMES = torch.linspace(0.02, 0.97, 20, dtype=torch.float64)


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("space", KINDS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_loss_in_another_space_is_the_same_loss_times_its_weight(
    name: PathName, space: Prediction, kind: Prediction
) -> None:
    """Loss and gradient: of the output converted to that space, and of the output itself with the weight."""
    path = make_path(name)
    levels = path.alpha(TIMES), path.sigma(TIMES), before(path, TIMES)
    x0, noise, wrong = torch.randn(3, len(TIMES), generator=torch.Generator().manual_seed(0)).double()
    x_t = levels[0] * x0 + levels[1] * noise
    output = (target(kind, x0, noise, *levels) + wrong).requires_grad_()
    data, drawn = to_data(kind, output, x_t, *levels), to_noise(kind, output, x_t, *levels)
    there = (target(space, data, drawn, *levels) - target(space, x0, noise, *levels)).square()
    here = space_weight(kind, space, *levels) * (output - target(kind, x0, noise, *levels)).square()
    torch.testing.assert_close(here, there, rtol=1e-8, atol=0)
    gradients = [torch.autograd.grad(loss.sum(), output, retain_graph=True)[0] for loss in (here, there)]
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-8, atol=0)


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("weighting", PARAMETERS)
def test_a_weighting_counts_an_error_alike_in_every_prediction(name: PathName, weighting: Weighting) -> None:
    path = make_path(name)
    levels = path.alpha(TIMES), path.sigma(TIMES), before(path, TIMES)
    of_noise = output_weight(weighting, PARAMETERS[weighting], "noise", *levels)
    for kind in KINDS:
        found = output_weight(weighting, PARAMETERS[weighting], kind, *levels)
        torch.testing.assert_close(found, of_noise * space_weight(kind, "noise", *levels), rtol=1e-8, atol=0)


def test_the_published_formulas() -> None:
    alpha, sigma = torch.tensor([0.8], dtype=torch.float64), torch.tensor([0.6], dtype=torch.float64)
    snr, s = (0.8 / 0.6) ** 2, 0.6 / 0.8
    for weighting, kind, expected in (
        ("min_snr", "data", min(snr, 5.0)),
        ("p2", "noise", 1 / (1 + snr) ** 0.7),
        ("edm", "data", (s**2 + 0.25) / (s * 0.5) ** 2),
        ("sigmoid", "noise", 1 / (1 + math.exp(math.log(snr) + 1.3))),
    ):
        found = output_weight(weighting, PARAMETERS[weighting], kind, alpha, sigma)  # type: ignore[arg-type, index]
        assert float(found) == pytest.approx(expected, rel=1e-12)


def test_pure_noise_has_a_weight_in_noise_prediction() -> None:
    alpha, sigma = torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    for weighting in ("min_snr", "p2", "sigmoid"):
        found = output_weight(weighting, PARAMETERS[weighting], "noise", alpha, sigma)  # type: ignore[arg-type, index]
        assert float(found) == 1


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"loss_space": "v", "weighting": "edm"}, "loss_space=v: expected '' with weighting=edm"),
    ],
)
def test_what_has_no_meaning_is_refused(fields: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ObjectiveConfig(**fields)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fields", [{"loss_space": "v"}, *({"weighting": each} for each in PARAMETERS)])
def test_no_sample_outweighs_all_others(name: PathName, kind: Prediction, fields: dict[str, str]) -> None:
    if (kind == "posterior_mean" and name not in CHAINS) or (
        name in SIGMAS and "v" in (kind, *fields.values())
    ):
        with pytest.raises(UserError):
            ObjectiveConfig(path=name, prediction=kind, **fields)  # type: ignore[arg-type]
        return
    objective = Objective(ObjectiveConfig(path=name, prediction=kind, **fields))  # type: ignore[arg-type]
    times = TimestepConfig(kind="mode", mode_scale=-1.0)
    extremes = torch.tensor([2.0**-24, 0.3, 0.5, 0.7, 1 - 2.0**-24])
    for t in (draw(times, objective.path, extremes), draw(TimestepConfig(), objective.path, extremes)):
        weights = objective._weight(t)
        if weights is not None:
            assert weights.isfinite().all()
            levels = (level.double() for level in (objective.path.alpha(t), objective.path.sigma(t)))
            most = most_weight(kind, *levels, before(objective.path, t))
            if fields != {"weighting": "min_snr"} or kind not in ("score", "posterior_mean"):
                assert (weights <= 1.001 * most).all()
            if kind not in ("score", "posterior_mean"):
                assert (most == 400).all()


def test_a_learned_weighting_divides_by_the_error_of_each_level() -> None:
    """A silent network's error is known: that of data is the data's size, whatever the level of noise."""
    objective = Objective(ObjectiveConfig(weighting="learned", loss_space="data"))
    own = objective.own_parameters()
    assert own is not None
    objective.use(own)
    x0 = torch.randn(512, 4, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    optimizer = torch.optim.Adam(own.parameters(), lr=0.05)
    for step in range(300):
        draws = Draws(0, step, torch.arange(512), torch.arange(512))
        losses = objective.loss(lambda x, t, c: torch.zeros_like(x), x0, Condition(), draws)
        optimizer.zero_grad()
        losses.loss.mean().backward()
        optimizer.step()
    t = torch.linspace(0.1, 0.9, 9)
    found = own("log_variance", 1 - t, t).exp()
    # sigma^2 (noise - data)^2: the loss of flow in the space of data.
    torch.testing.assert_close(found, 2 * t**2, rtol=0.15, atol=0)
    u, squared = losses.extras["log_variance"], losses.extras["squared_error"]
    torch.testing.assert_close(losses.loss, squared / u.exp() + u)


def test_a_log_variance_has_a_value_at_the_ends_of_a_path() -> None:
    ends = torch.tensor([0.0, 1.0])
    assert LogVariance()(ends, 1 - ends).tolist() == [0, 0]
