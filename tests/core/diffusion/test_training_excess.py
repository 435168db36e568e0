"""What a small trained network pays over the least loss that its objective has, which is known of a mixture.

The best output at x_t is the target with data and noise replaced by their posterior means. A network's excess
over it is the weighted mean square of its distance to that, and the best constant's excess likewise; on
common draws neither has the variance of the loss itself.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn

from core.batch import Condition
from core.diffusion import predictions
from core.diffusion.objective import Objective
from core.diffusion.objectives.config import ObjectiveConfig
from core.diffusion.objectives.noised import NoisyBatch
from core.diffusion.paths.path import PathName
from core.diffusion.predictions import Before, Prediction, level_before, network_input
from core.diffusion.timesteps import TimestepConfig
from core.diffusion.weightings import LossSpace, Weighting
from core.draws import Draws
from tests.core.diffusion.every_path import CHAINS, KINDS, PATHS

MEANS = torch.tensor([[2.4, 0.4], [-1.8, 1.8], [-0.4, -2.2]])
SHARES = torch.tensor([0.5, 0.2, 0.3])
VARIANCE = 0.05
STEPS, BATCH, WIDTH, RATE = 400, 2048, 64, 1e-2
MOST = 0.02  # of the best constant's excess


def samples(count: int, generator: torch.Generator) -> Tensor:
    mode = torch.multinomial(SHARES, count, replacement=True, generator=generator)
    data = MEANS[mode] + VARIANCE**0.5 * torch.randn(count, 2, generator=generator)
    return data[:, :, None, None, None]


def posterior_mean(x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """Return the mean (B, 2) of the data at x_t (B, 2) float64; levels (B, 1)."""
    means, spread = MEANS.double(), alpha**2 * VARIANCE + sigma**2
    apart = x[:, None] - alpha[..., None] * means
    share = torch.softmax(SHARES.double().log() - apart.square().sum(-1) / (2 * spread), 1)
    return (share[..., None] * (means + alpha[..., None] * VARIANCE * apart / spread[..., None])).sum(1)


def levels_at(objective: Objective, t: Tensor) -> tuple[Tensor, Tensor, Before]:
    """Return levels (B, 1) float64 at times (B,), and those of a step before where the target needs them."""
    alpha, sigma = (level(t.double())[:, None] for level in (objective.path.alpha, objective.path.sigma))
    if objective.config.prediction != "posterior_mean":
        return alpha, sigma, None
    before = [level[:, None] for level in level_before(objective.path, t.double())]
    return alpha, sigma, (before[0], before[1])


class Network(nn.Module):
    """Two layers of 64 between the linear part and the scale that the target has for data of unit size.

    The same for all predictions, as EDM's preconditioning (2206.00364, section 5) is for its own.
    """

    def __init__(self, objective: Objective) -> None:
        super().__init__()
        self.objective, outputs = objective, 4 if objective.config.learned_sigma else 2
        self.body = nn.Sequential(
            nn.Linear(11, WIDTH), nn.SiLU(), nn.Linear(WIDTH, WIDTH), nn.SiLU(), nn.Linear(WIDTH, outputs)
        )
        nn.init.zeros_(self.body[-1].weight)  # type: ignore[arg-type]

    def forward(self, seen: Tensor, told: Tensor, condition: Condition) -> Tensor:
        count = self.objective.path.num_steps
        t = (told.double() + 1) / count if count else told.double() / 1000
        alpha, sigma, before = levels_at(self.objective, t)
        size = (alpha**2 + sigma**2).sqrt()
        unit = seen.flatten(1).double() / (1 if self.objective.path.scales_input else size)
        zero, one = torch.zeros_like(alpha), torch.ones_like(alpha)
        kind = self.objective.config.prediction
        of_data, of_noise = (
            predictions.target(kind, *part, alpha, sigma, before) for part in ((one, zero), (zero, one))
        )
        linear = (of_data * alpha + of_noise * sigma) / size
        scale = (of_noise * alpha - of_data * sigma).abs() / size
        found = self.body(torch.cat([unit, features(alpha, sigma)], 1).float())
        output = torch.cat([(linear * unit + scale * found[:, :2]).float(), found[:, 2:]], 1)
        return output[:, :, None, None, None]


def features(alpha: Tensor, sigma: Tensor) -> Tensor:
    """Return nine bounded functions of the level (B, 9)."""
    angle, log_ratio = torch.atan2(sigma, alpha), (sigma / alpha).log().clamp(-6, 6)
    waves = [wave(k * angle) for k in (2, 4) for wave in (torch.sin, torch.cos)]
    return torch.cat(
        [angle, log_ratio / 3, log_ratio.sin(), log_ratio.cos(), log_ratio.tanh(), *waves], dim=1
    )


def trained(objective: Objective, steps: int = STEPS) -> Network:
    """Return a network after Adam with a cosine decay, its weights averaged over the last steps."""
    torch.manual_seed(0)
    generator, ids = torch.Generator().manual_seed(0), torch.arange(BATCH)
    network, own = Network(objective), objective.own_parameters()
    parameters = [*network.parameters(), *([] if own is None else own.parameters())]
    if own is not None:
        objective.use(own)
    optimizer = torch.optim.Adam(parameters, lr=RATE, betas=(0.9, 0.99))
    average = [parameter.detach().clone() for parameter in network.parameters()]
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1, (step + 1) / 20) * (1 + math.cos(math.pi * step / steps)) / 2
        draws = Draws(0, step, ids, ids)
        losses = objective.loss(network, samples(BATCH, generator), Condition(), draws)
        optimizer.zero_grad()
        losses.loss.mean().backward()
        optimizer.step()
        torch._foreach_lerp_(average, [parameter.detach() for parameter in network.parameters()], 0.05)
    for parameter, value in zip(network.parameters(), average, strict=True):
        parameter.data.copy_(value)
    return network


@torch.no_grad()
def excess(objective: Objective, network: Network, count: int = 20_000) -> float:
    """Return the network's excess over the least loss, as a share of the best constant's."""
    ids = torch.arange(count)
    noised = objective.noised(
        samples(count, torch.Generator().manual_seed(1)), Condition(), Draws(1, 0, ids, ids)
    )
    best, weight = best_output(objective, noised), weight_of(noised)
    seen = network_input(objective.path, noised.x_t, noised.alpha, noised.sigma)
    output = network(seen, noised.time_input, Condition()).flatten(1)[:, :2].double()
    constant = (weight * best).sum(0) / weight.sum()
    return float((weight * (output - best) ** 2).sum() / (weight * (constant - best) ** 2).sum())


def best_output(objective: Objective, noised: NoisyBatch) -> Tensor:
    alpha, sigma, before = levels_at(objective, noised.time)
    x = noised.x_t.flatten(1).double()
    data = posterior_mean(x, alpha, sigma)
    noise = (x - alpha * data) / sigma
    return predictions.target(objective.config.prediction, data, noise, alpha, sigma, before)


def weight_of(noised: NoisyBatch) -> Tensor:
    return (
        torch.ones(len(noised.x0), 1).double() if noised.weight is None else noised.weight[:, None].double()
    )


def case(name: str = "", **fields: Any) -> Any:
    config = ObjectiveConfig(**fields)
    return pytest.param(config, id=name or f"{config.path}-{config.prediction}")


EDM_TIMES = TimestepConfig(kind="edm", mean=-1.2, std=1.2)
COVERING = [
    case("rectified_flow"),
    case("jit", prediction="data", loss_space="v"),
    case("ddpm", path="ddpm_linear", prediction="noise"),
    case("min_snr", path="ddpm_cosine", prediction="v", weighting="min_snr"),
    case("edm", path="edm", prediction="edm", weighting="edm", timesteps=EDM_TIMES),
    case("score", path="variance_exploding", prediction="score", loss_space="noise"),
    case("posterior_mean", path="ddpm_scaled_linear", prediction="posterior_mean", weighting="p2"),
    case("learned", weighting="learned", timesteps=TimestepConfig(kind="logit_normal")),
]


def every_objective() -> list[Any]:
    """Return every path with every prediction, and weightings, loss spaces and times one by one."""
    found = []
    for path in PATHS:
        for kind in KINDS:
            is_chain = path in CHAINS
            if (kind == "posterior_mean" and not is_chain) or (kind == "v" and path in NO_V):
                continue
            found.append(case(path=path, prediction=kind, loss_space="noise" if kind == "score" else ""))
    for weighting in get_args(Weighting):
        for path, kind in BOTH:
            found.append(case(f"{weighting}-{path}", path=path, prediction=kind, weighting=weighting))
    for space in get_args(LossSpace):
        for path, kind in BOTH:
            if space in ("", "posterior_mean", kind):
                continue
            found.append(case(f"{kind}-in-{space}-{path}", path=path, prediction=kind, loss_space=space))
    for times in ("logit_normal", "mode", "edm", "laplace", "cauchy", "sech"):
        found.append(case(f"times-{times}", timesteps=TimestepConfig(kind=times)))  # type: ignore[arg-type]
    found.append(case("stratified", timesteps=TimestepConfig(stratified=True, shift=3.0)))
    found.append(case("variance", path="ddpm_linear", prediction="noise", learned_sigma=True))
    return found


NO_V: tuple[PathName, ...] = ("edm", "variance_exploding")
BOTH: tuple[tuple[PathName, Prediction], ...] = (("rectified_flow", "data"), ("ddpm_linear", "noise"))


@pytest.mark.parametrize("config", COVERING)
def test_a_small_network_comes_near_the_least_loss(config: ObjectiveConfig) -> None:
    objective = Objective(config)
    assert excess(objective, trained(objective)) <= MOST


@pytest.mark.full
@pytest.mark.parametrize("config", every_objective())
def test_a_small_network_comes_near_the_least_loss_of_every_objective(config: ObjectiveConfig) -> None:
    objective = Objective(config)
    steps = (4 if config.loss_space == "score" else 2) * STEPS  # its weight is where noise is least
    assert excess(objective, trained(objective, steps)) <= MOST


def test_the_least_loss_is_where_the_target_is_replaced_by_its_posterior_mean() -> None:
    """No function of x_t and time has less loss: those next to it have more, by its excess."""
    objective, count = Objective(ObjectiveConfig(prediction="data")), 100_000
    ids = torch.arange(count)
    noised = objective.noised(
        samples(count, torch.Generator().manual_seed(2)), Condition(), Draws(2, 0, ids, ids)
    )
    best, target = best_output(objective, noised), noised.target.flatten(1).double()
    for other in (best * 1.1, best + 0.2, best + 0.2 * noised.x_t.flatten(1)):
        more = (target - other).square() - (target - best).square()
        told = (other - best).square().mean()
        error = more.mean(1).std() / count**0.5
        assert abs(float(more.mean() - told)) < 4 * float(error)
        assert float(more.mean()) > 0


class WrongSign(Objective):
    """Flow that points from noise to data."""

    def noised(self, x0: Tensor, condition: Condition, draws: Draws) -> NoisyBatch:
        noised = super().noised(x0, condition, draws)
        return replace(noised, target=-noised.target)


def test_a_wrong_target_and_a_network_that_has_learnt_nothing_are_told() -> None:
    config = ObjectiveConfig()
    assert excess(Objective(config), trained(WrongSign(config), steps=50)) > 1
    assert excess(Objective(config), Network(Objective(config))) > 2 * MOST
