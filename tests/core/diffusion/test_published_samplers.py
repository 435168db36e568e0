"""Samplers and losses against numbers that the published code of DiT and SiT gave.

`dit_samplers.npz` and `sit_samplers.npz` hold what that code (facebookresearch/DiT at ed81ce2, `diffusion`
and `forward_with_cfg`; willisma/SiT at 947f95b, `transport`, with torchdiffeq 0.2.5) computed in float64 with
the networks below from the start and the noises that the files hold: ten steps, on the chain of 1000 by the
respacings "10" and "ddim10". `ddpm_cosine` is of noise_schedule="squaredcos_cap_v2", clipped.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from core.batch import Condition
from core.diffusion.generating import sample
from core.diffusion.grids import make_grid
from core.diffusion.objective import Objective
from core.diffusion.objectives.config import ObjectiveConfig
from core.diffusion.paths.kinds import make_path
from core.diffusion.sampling import SamplerConfig
from core.diffusion.thresholds import ThresholdConfig
from core.draws import Draws

CLIPPED = ThresholdConfig(kind="static", limit=1.0)


@cache
def reference(name: str) -> dict[str, Tensor]:
    with np.load(Path(__file__).with_name(f"{name}_samplers.npz")) as file:
        return {key: torch.from_numpy(file[key]) for key in file.files}


@dataclass(frozen=True)
class GivenDraws(Draws):
    """The start and the noises of a file, for images."""

    file: str = "dit"

    def normal(self, purpose: str, shape: tuple[int, ...] = ()) -> Tensor:
        found = reference(self.file)
        if purpose == "sample_start":
            return found["start"][: len(self.id), :, None]
        return found["noises"][int(purpose.rpartition("_")[2]), : len(self.id), :, None]


def given(count: int, file: str) -> GivenDraws:
    zeros = torch.zeros(count, dtype=torch.int64)
    return GivenDraws(0, 0, torch.arange(count), zeros, file=file)


def dit(x: Tensor, time: Tensor, condition: Condition) -> Tensor:
    t, x = time.double().reshape(-1, 1, 1, 1, 1), x.double()
    shift = 0.0 if condition.label is None else 0.2 * condition.label.double().reshape(-1, 1, 1, 1, 1)
    noise = 0.7 * torch.sin(1.3 * x) + 0.25 * torch.cos(t / 300) + shift
    return torch.cat([noise, 0.8 * torch.cos(x + t / 500)], 1)


def sit(x: Tensor, time: Tensor, condition: Condition) -> Tensor:
    """Return the flow noise - data of a network of data - noise whose clock runs from noise to data."""
    t = 1 - time.double().reshape(-1, 1, 1, 1, 1) / 1000
    return -(-0.6 * torch.sin(1.2 * x) + 0.3 * torch.cos(2 * t) - 0.4 * x)


DIT: dict[str, tuple[dict[str, Any], bool]] = {
    "ddpm_learned": ({"solver": "ddpm", "grid": "meta"}, True),
    "ddpm_learned_clipped": ({"solver": "ddpm", "grid": "meta", "threshold": CLIPPED}, True),
    "ddpm_large": ({"solver": "ddpm", "grid": "meta", "variance": "large"}, False),
    "ddpm_small": ({"solver": "ddpm", "grid": "meta"}, False),
    "ddim": ({"solver": "ddim", "grid": "meta_ddim"}, False),
    "ddim_clipped": ({"solver": "ddim", "grid": "meta_ddim", "threshold": CLIPPED}, False),
    "ddim_eta": ({"solver": "ddim", "grid": "meta", "eta": 0.6}, False),
    "ddpm_cosine": ({"solver": "ddpm", "grid": "meta", "threshold": CLIPPED}, True),
    "ddpm_guided": ({"solver": "ddpm", "grid": "meta", "guidance": 2.5, "guidance_channels": 3}, True),
}


@pytest.mark.parametrize("name", DIT)
def test_samples_are_those_of_the_published_dit(name: str) -> None:
    fields, learned = DIT[name]
    label = torch.tensor([2, 1]) if name == "ddpm_guided" else None
    config = SamplerConfig(steps=10, **fields)
    path = make_path("ddpm_cosine" if name == "ddpm_cosine" else "ddpm_linear")
    found = sample(
        dit, (2, 4, 1, 2, 2), Condition(label), config, path, "noise", given(2, "dit"), learned_sigma=learned
    )
    torch.testing.assert_close(found[:, :, 0].double(), reference("dit")[name], rtol=1e-4, atol=1e-4)


def test_the_respacings_are_told_by_the_steps_that_they_keep() -> None:
    """Of 1000 steps by 10: N even indices with both ends, and the multiples of a whole stride."""
    chain = make_path("ddpm_linear")
    for count in (2, 5, 10, 37, 250, 999):
        even = [round(index * 999 / (count - 1)) for index in range(count)]
        found = [round(time * 1000) - 1 for time in make_grid("meta", chain, count, 1.0)[-2::-1]]
        assert max(abs(one - other) for one, other in zip(found, even, strict=True)) <= 1  # halves are summed
        assert (found[0], found[-1]) == (0, 999)
    for count in (1, 2, 10, 50, 125, 500):
        stride = -(-1000 // count)
        found = [round(time * 1000) - 1 for time in make_grid("meta_ddim", chain, count, 1.0)[-2::-1]]
        assert found == list(range(0, 1000, stride))


def test_no_array_of_the_references_is_left_out() -> None:
    of_losses = {"start", "noises", "x0", "x0_noise", "t", "loss", "mse", "vb", "gradient"}
    assert set(reference("dit")) == {*DIT, *of_losses}
    assert set(reference("sit")) == {*SIT, "heun2", "dopri5", "start", "noises"}


def test_loss_bound_and_gradient_are_those_of_the_published_dit() -> None:
    kept = reference("dit")
    config = ObjectiveConfig(path="ddpm_linear", prediction="noise", learned_sigma=True)
    objective, scale = Objective(config), torch.ones(1, dtype=torch.float64, requires_grad=True)
    x0, noise = (kept[name][:, :, None].float() for name in ("x0", "x0_noise"))
    batch = objective.noised_at(x0, Condition(), (kept["t"].float() + 1) / 1000, noise)
    losses = objective.loss_of(lambda x, t, c: (scale * dit(x, t, c)).float(), batch)
    torch.testing.assert_close(losses.loss.double(), kept["loss"], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(losses.extras["squared_error"].double(), kept["mse"], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(losses.extras["bound_bits"].double(), kept["vb"], rtol=1e-4, atol=1e-6)
    (gradient,) = torch.autograd.grad(losses.loss.sum(), scale)
    torch.testing.assert_close(gradient, kept["gradient"], rtol=1e-4, atol=1e-6)


SIT: dict[str, dict[str, Any]] = {
    "euler": {"solver": "euler"},
    "midpoint": {"solver": "midpoint"},
    "sde_0.5": {"solver": "euler_maruyama", "eta": 0.5},
    "sde_1": {"solver": "euler_maruyama", "eta": 1.0},
}


@pytest.mark.parametrize("name", SIT)
def test_samples_are_those_of_the_published_sit(name: str) -> None:
    config = SamplerConfig(steps=10, **SIT[name])
    if name.startswith("sde"):  # nine even steps to 0.04, then one without noise
        times = (1 - torch.linspace(0, 0.96, 10, dtype=torch.float64)).tolist()
        config = replace(config, times=tuple(times))
    path, draws = make_path("rectified_flow"), given(2, "sit")
    found = sample(sit, (2, 4, 1, 2, 2), Condition(), config, path, "flow", draws)
    torch.testing.assert_close(found[:, :, 0], reference("sit")[name], rtol=1e-4, atol=1e-4)


def test_heun_is_that_of_sit_but_for_its_last_step() -> None:
    """Which also evaluates at the data, where ours takes Euler's: it is taken here by hand."""
    asked = list[Tensor]()

    def watched(x: Tensor, time: Tensor, condition: Condition) -> Tensor:
        asked.append(x)
        return sit(x, time, condition)

    config = SamplerConfig(steps=10, solver="heun", grid="even")
    sample(
        watched, (2, 4, 1, 2, 2), Condition(), config, make_path("rectified_flow"), "flow", given(2, "sit")
    )
    x, h = asked[-1].double(), 0.1
    first, last = (torch.tensor([1000 * time], dtype=torch.float64) for time in (h, 0.0))
    slope = sit(x, first, Condition())
    found = x - h / 2 * (slope + sit(x - h * slope, last, Condition()))
    torch.testing.assert_close(found[:, :, 0], reference("sit")["heun2"].double(), rtol=1e-4, atol=1e-4)


def test_the_adaptive_flow_ends_where_that_of_sit_does() -> None:
    config, path = SamplerConfig(solver="dopri5"), make_path("rectified_flow")
    config = replace(config, adaptive=replace(config.adaptive, tolerance=1e-7))
    found = sample(sit, (1, 4, 1, 2, 2), Condition(), config, path, "flow", given(1, "sit"))
    torch.testing.assert_close(found[:, :, 0], reference("sit")["dopri5"], rtol=1e-4, atol=1e-4)
