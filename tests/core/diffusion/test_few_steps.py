"""Objectives of few steps, held to the closed forms of Gaussian data on the straight path."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from core.batch import Condition
from core.diffusion.generating import sample
from core.diffusion.objective import Objective
from core.diffusion.objectives import mean_flow
from core.diffusion.objectives.config import ObjectiveConfig
from core.diffusion.objectives.consistency import (
    ConsistencyConfig,
    Teacher,
    consistency_loss,
    intervals_at,
    neighbours,
)
from core.diffusion.objectives.mean_flow import MeanFlowConfig, difference, jvp, mean_flow_loss
from core.diffusion.objectives.noised import Model, NoisyBatch
from core.diffusion.paths.kinds import make_path
from core.diffusion.sampling import SamplerConfig
from core.draws import Draws
from core.errors import UserError
from models.denoisers.dit import DiTConfig

MEAN, DEVIATION = 0.7, 0.4
SHAPE = (2, 1, 2, 2)
PLANE = (2, 1, 1, 1)
PATH = make_path("rectified_flow")


def wide(t: Tensor) -> Tensor:
    return t.reshape(-1, 1, 1, 1, 1)


def spread(t: Tensor) -> Tensor:
    return ((1 - t) ** 2 * DEVIATION**2 + t**2).sqrt()


def moved(x: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """Return where the flow of the Gaussian takes x from t to s."""
    return (1 - s) * MEAN + spread(s) / spread(t) * (x - (1 - t) * MEAN)


def velocity(x: Tensor, t: Tensor) -> Tensor:
    slope = (t - (1 - t) * DEVIATION**2) / spread(t) ** 2
    return slope * (x - (1 - t) * MEAN) - MEAN


def average(x: Tensor, times: Tensor, condition: Condition) -> Tensor:
    """Return the exact average velocity; times (B, 2) as the network is told them, or (B,) of no step."""
    t, r = (wide(each) for each in (times / 1000).double().unbind(1))
    length = torch.where(t > r, t - r, 1.0)
    return torch.where(t > r, (x - moved(x, t, r)) / length, velocity(x, t))


def to_end(x: Tensor, time: Tensor, condition: Condition) -> Tensor:
    """Return the flow prediction that stands for the exact end of the flow."""
    t = wide(time / 1000).double()
    return (x - moved(x, t, torch.zeros_like(t))) / t


def exact_flow(x: Tensor, time: Tensor, condition: Condition) -> Tensor:
    return velocity(x, wide(time / 1000).double())


def noised(objective: Objective, count: int, step: int = 0) -> NoisyBatch:
    """Return a batch in float64."""
    ids = torch.arange(count)
    drawn = Draws(1, step, ids, ids)
    x0 = MEAN + DEVIATION * drawn.normal("data", SHAPE).double()
    found = objective.noised(x0, Condition(), drawn)
    assert found.end is not None
    assert found.noise is not None
    at = {name: getattr(found, name).double() for name in ("time", "end", "noise")}
    wide_time = wide(at["time"])
    return replace(
        found,
        **at,
        x_t=(1 - wide_time) * x0 + wide_time * at["noise"],
        target=at["noise"] - x0,
        time_input=1000 * at["time"],
        alpha=1 - wide_time,
        sigma=wide_time,
    )


def objective_of(kind: Any, **fields: Any) -> Objective:
    return Objective(ObjectiveConfig(kind=kind, **fields))


def test_the_average_velocity_obeys_its_identity() -> None:
    """To 1e-8, with the velocity of the flow in place of the sample's."""
    batch = noised(objective_of("mean_flow", mean_flow=MeanFlowConfig(instant_share=0.0)), 4096)
    assert batch.end is not None
    batch = replace(batch, target=velocity(batch.x_t, wide(batch.time)))
    output, slope = jvp(average, batch, batch.end, PATH)
    length = wide(batch.time - batch.end)
    error = (output - (batch.target - length * slope)).abs()
    assert (error[length.flatten() >= 1e-3] < 1e-8).all()


class Moved(nn.Module):
    """The exact average velocity at parameters of 0, moved by each of them in another way."""

    def __init__(self) -> None:
        super().__init__()
        self.amount = nn.Parameter(torch.zeros(4, dtype=torch.float64))

    def forward(self, x: Tensor, times: Tensor, condition: Condition) -> Tensor:
        t, r = (wide(each) for each in (times / 1000).unbind(1))
        ways = (torch.ones_like(x), x, x * (t - r), torch.sin(3 * x) * t)
        return average(x, times, condition) + sum(a * way for a, way in zip(self.amount, ways, strict=True))


def mean_gradient(swap: bool = False) -> tuple[Tensor, Tensor]:
    """Return the mean gradient at the exact average velocity, and its standard error."""
    config = MeanFlowConfig(instant_share=0.25, power=0.0)
    objective, network, found = objective_of("mean_flow", mean_flow=config), Moved(), []
    model: Model = (lambda x, times, c: network(x, times.flip(1), c)) if swap else network
    for step in range(100):
        loss = mean_flow_loss(model, noised(objective, 256, step), PATH, config).loss.mean()
        found.append(torch.autograd.grad(loss, network.amount)[0])
    each = torch.stack(found)
    return each.mean(0), each.std(0) / len(found) ** 0.5


def test_the_exact_average_velocity_has_no_expected_gradient() -> None:
    mean, error = mean_gradient()
    assert (mean.abs() < 4 * error).all()


@pytest.mark.parametrize("mutation", ["swapped times", "a wrong sign", "no stop-gradient"])
def test_every_mistake_has_an_expected_gradient(mutation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if mutation == "a wrong sign":
        monkeypatch.setattr(mean_flow, "jvp", lambda *given: (lambda u, slope: (u, -slope))(*jvp(*given)))
    elif mutation == "no stop-gradient":
        monkeypatch.setattr(Tensor, "detach", lambda self: self)
    mean, error = mean_gradient(swap=mutation == "swapped times")
    assert (mean.abs() > 10 * error).any()


def small_dit(**fields: Any) -> nn.Module:
    torch.manual_seed(0)
    shape = {"input_channels": 2, "patch": (1, 1, 1), "width": 32, "depth": 2, "heads": 2, "num_classes": 0}
    network = DiTConfig(**{**shape, "two_times": True, "attention": "math", **fields}).build()
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.2 / parameter.shape[-1] ** 0.5 if parameter.ndim > 1 else 0.05)
    return network


@pytest.mark.parametrize(("time_scale", "stride"), [(1.0, 0.00025), (0.001, 0.002)])
def test_the_difference_agrees_with_the_derivative(time_scale: float, stride: float) -> None:
    network = small_dit(time_scale=time_scale)
    ids = torch.arange(64)
    objective = objective_of("mean_flow", mean_flow=MeanFlowConfig(instant_share=0.25))
    batch = objective.noised(torch.randn(64, *SHAPE), Condition(), Draws(0, 0, ids, ids))
    assert batch.end is not None
    output, slope = jvp(network, batch, batch.end, PATH)
    other, near = difference(network, batch, batch.end, PATH, stride)
    torch.testing.assert_close(output, other)
    assert float((near - slope).norm().detach()) < 1e-3 * float(slope.norm().detach())


def test_a_step_of_no_length_is_the_network_of_one_time() -> None:
    network, x = small_dit(), torch.randn(4, *SHAPE)
    time = torch.tensor([10.0, 300.0, 700.0, 1000.0])
    found = network(x, torch.stack([time, time], 1), Condition())
    torch.testing.assert_close(network(x, time, Condition()), found)
    assert not torch.equal(network(x, torch.stack([time, 0 * time], 1), Condition()), found)


@pytest.mark.parametrize("steps", [1, 2, 4])
@pytest.mark.parametrize(("solver", "model"), [("mean_flow", average), ("renoise", to_end)])
def test_exact_networks_sample_exactly_in_few_steps(solver: Any, model: Model, steps: int) -> None:
    ids = torch.arange(20000)
    drawn = Draws(0, 0, ids, ids)
    config = SamplerConfig(solver=solver, steps=steps)
    found = sample(model, (len(ids), *SHAPE), Condition(), config, PATH, "flow", drawn)
    if solver == "mean_flow":  # the same flow, however many steps
        wanted = moved(drawn.normal("sample_start", SHAPE).double(), torch.ones(1), torch.zeros(1))
        torch.testing.assert_close(found.double(), wanted, rtol=0, atol=1e-5)
    assert float(found.mean()) == pytest.approx(MEAN, abs=0.01)
    assert float(found.std()) == pytest.approx(DEVIATION, rel=0.02)


def slope_of(loss: Callable[[int], float]) -> float:
    """Return the power of the step by which a loss falls."""
    counts = [20, 40, 80, 160]
    points = torch.tensor([[float(n), loss(n)] for n in counts], dtype=torch.float64).log()
    x, y = points[:, 0] - points[:, 0].mean(), points[:, 1] - points[:, 1].mean()
    return -float((x * y).sum() / (x * x).sum())


@pytest.mark.parametrize(("teacher", "power"), [(None, 2.0), (Teacher(exact_flow, "flow"), 6.0)])
def test_the_loss_of_the_exact_map_falls_with_the_step(teacher: Teacher | None, power: float) -> None:
    """By its square from data alone; with a teacher's Heun steps by that of their error, of third order."""

    def squared(count: int) -> float:
        config = ConsistencyConfig(intervals=count, most_intervals=count, huber=0.0)
        batch = noised(objective_of("consistency", consistency=config), 4096)
        late = batch.time > 0.3
        losses = consistency_loss(to_end, batch, PATH, "flow", config, teacher)
        return float(losses.extras["squared_error"][late].mean())

    assert slope_of(squared) == pytest.approx(power, abs=0.25)


def test_only_the_later_estimate_is_trained_and_the_first_is_the_data() -> None:
    config = ConsistencyConfig(intervals=1, most_intervals=1, huber=0.0)
    batch = noised(objective_of("consistency", consistency=config), 8)
    scale = torch.ones(1, dtype=torch.float64, requires_grad=True)
    losses = consistency_loss(lambda x, t, c: scale * x, batch, PATH, "flow", config)
    torch.testing.assert_close(losses.loss, (batch.x_t - batch.x_t - batch.x0).square().mean((1, 2, 3, 4)))
    (gradient,) = torch.autograd.grad(losses.loss.sum(), scale)
    assert float(gradient) == pytest.approx(float((2 * batch.x0 * batch.x_t).mean((1, 2, 3, 4)).sum()))


def test_intervals_double_as_training_goes_on() -> None:
    config = ConsistencyConfig(intervals=10, most_intervals=70, double_every=100)
    assert [intervals_at(config, step) for step in (0, 99, 100, 200, 300, 10**9)] == [10, 10, 20, 40, 70, 70]
    t, s = neighbours(config, torch.tensor([1e-7, 0.0999, 0.1001, 1.0]), 0)
    torch.testing.assert_close(t, torch.tensor([0.1, 0.1, 0.2, 1.0]))
    torch.testing.assert_close(s, torch.tensor([0.0, 0.0, 0.1, 0.9]))
    assert s[0] == 0


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "mean_flow", "path": "edm"}, "path=edm: expected rectified_flow with kind=mean_flow"),
        ({"kind": "mean_flow", "prediction": "data"}, "prediction=data: expected flow with kind=mean_flow"),
        ({"kind": "consistency", "prediction": "noise"}, "prediction=noise: expected flow, v or edm with"),
        (
            {"kind": "consistency", "weighting": "edm"},
            "weighting=edm: expected uniform with kind=",
        ),
        (
            {"kind": "distillation", "path": "ddpm_linear"},
            "path=ddpm_linear: expected rectified_flow, edm",
        ),
    ],
)
def test_what_has_no_form_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ObjectiveConfig(**fields)


class Small(nn.Module):
    """A perceptron of x, where a step begins and how long it is, on 2-D data."""

    def __init__(self) -> None:
        super().__init__()
        sizes = (4, 64, 64, 2)
        layers = [nn.Linear(a, b) for a, b in pairwise(sizes)]
        self.layers = nn.Sequential(*(each for layer in layers for each in (layer, nn.SiLU())))[:-1]

    def forward(self, x: Tensor, time: Tensor, condition: Condition) -> Tensor:
        t, r = (time if time.ndim == 2 else torch.stack([time, time], 1)).unbind(1)
        seen = torch.cat([x.flatten(1), t[:, None] / 1000, (t - r)[:, None] / 1000], 1)
        return self.layers(seen).reshape(x.shape)


def trained(steps: int, seed: int) -> nn.Module:
    """Train a small network on the average velocities of the Gaussian."""
    torch.manual_seed(seed)
    network, size = Small(), 512
    objective = objective_of("mean_flow", mean_flow=MeanFlowConfig(instant_share=0.25, power=0.0))
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2, betas=(0.9, 0.99))
    ids = torch.arange(size)
    for step in range(steps):
        drawn = Draws(1 + seed, step, ids, ids)
        x0 = MEAN + DEVIATION * drawn.normal("data", PLANE)
        optimizer.param_groups[0]["lr"] = 1e-2 * (1 - step / steps)
        optimizer.zero_grad()
        objective.loss(network, x0, Condition(), drawn).loss.mean().backward()
        optimizer.step()
    return network


@pytest.mark.full
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_small_network_learns_to_sample_in_one_step(seed: int) -> None:
    """Within 10 % rms of the exact end of the flow from the same start, over the deviation of the data."""
    network, ids = trained(3000, seed), torch.arange(4096)
    drawn = Draws(5 + seed, 0, ids, ids)
    config = SamplerConfig(solver="mean_flow", steps=1)
    found = sample(network, (len(ids), *PLANE), Condition(), config, PATH, "flow", drawn)
    wanted = moved(drawn.normal("sample_start", PLANE), torch.ones(1), torch.zeros(1))
    error = float((found - wanted).square().mean().sqrt()) / DEVIATION
    assert error < 0.1
