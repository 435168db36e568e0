"""Ways to update weights that `bench update` compares: the usual one, this project's, the engines'.

All get the same gradients, and have `prepare` (untimed), `step`, `updates` and `result`.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from core.averages.ema import Ema, EmaConfig
from core.distributed import ranks
from core.engine.config import EngineConfig
from core.engine.kinds import make_engine
from core.engine.zero.replicated import Replicated
from core.optim.groups import OptimizerConfig, parameter_groups
from models.denoisers.dit import DiT, DiTConfig

CLIPPING, LR = 1.0, 1e-4
OPTIMIZER = OptimizerConfig(lr=LR)
ONE = EmaConfig()


Numbers = tuple[Tensor, Tensor, Tensor]
"""Of one parameter: weights, average and first moment."""


@dataclass(frozen=True)
class Material:
    """The network that is copied for every way, and a gradient for each of its parameters, exact in bf16."""

    network: nn.Module
    gradients: list[Tensor]

    @property
    def numbers(self) -> int:
        """Count of numbers in all parameters."""
        return sum(g.numel() for g in self.gradients)


def make(name: str, device: torch.device) -> Material:
    """Make a network without zeros, and gradients of norm 10, so that clipping has work."""
    torch.manual_seed(0)
    network = DiT(replace(DiTConfig.presets[name], preset=name)).to(device)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.02)
    scale = 10 / math.sqrt(sum(p.numel() for p in network.parameters()))
    gradients = [(torch.randn_like(p) * scale).bfloat16().float() for p in network.parameters()]
    return Material(network.requires_grad_(), gradients)


class Usual:
    """The update as it is usually written: parameter by parameter, with all defaults."""

    def __init__(self, material: Material) -> None:
        self.material, self.updates = material, 0
        self.model = copy.deepcopy(material.network)
        self.average = copy.deepcopy(self.model).requires_grad_(False)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=LR, weight_decay=0.0)

    def prepare(self) -> None:
        for parameter, gradient in zip(self.model.parameters(), self.material.gradients, strict=True):
            parameter.grad = gradient.clone()

    def step(self) -> None:
        self.updates += 1
        nn.utils.clip_grad_norm_(self.model.parameters(), CLIPPING)
        self.optimizer.step()
        decay = min(ONE.decay, self.updates / (self.updates + ONE.warmup))
        with torch.no_grad():
            for mean, parameter in zip(self.average.parameters(), self.model.parameters(), strict=True):
                mean.lerp_(parameter, 1 - decay)

    def result(self) -> list[Numbers]:
        pairs = zip(self.model.parameters(), self.average.parameters(), strict=True)
        return [(p, mean, self.optimizer.state[p]["exp_avg"]) for p, mean in pairs]


class Bare:
    """This project's update without an engine: the optimizer and the averages on flat tensors."""

    def __init__(self, material: Material, ema: EmaConfig) -> None:
        self.material, self.updates = material, 0
        model = copy.deepcopy(material.network)
        self.parameters = list(model.parameters())
        self.optimizer = Replicated(
            parameter_groups(model, OPTIMIZER), gradient_clipping=CLIPPING, lr=LR, fused=True
        )
        self.ema = Ema(ema, self.optimizer.masters)

    @property
    def gradient(self) -> Tensor:
        """Return the largest of the flat gradients."""
        return max(self.optimizer.gradients, key=Tensor.numel)

    def prepare(self) -> None:
        for parameter, gradient in zip(self.parameters, self.material.gradients, strict=True):
            parameter.backward(gradient)

    def step(self) -> None:
        self.update()
        self.ema.update(self.optimizer.masters, self.updates)

    def update(self) -> None:
        """Update the weights without the averages."""
        self.updates += 1
        self.optimizer.step()

    def result(self) -> list[Numbers]:
        averages, masters = next(iter(self.ema.averages.values())), self.optimizer.masters
        moments = [self.optimizer.state[flat]["exp_avg"] for flat in masters]
        found = {}
        for p, flat, offset in self.optimizer.layout:
            place = slice(offset, offset + p.numel())
            found[p] = (masters[flat][place], averages[flat][place], moments[flat][place])
        return [found[p] for p in self.parameters]


class Sharded:
    """An engine, in bf16 with fp32 masters: of a kind, at its lowest sharded stage."""

    def __init__(
        self, material: Material, world: ranks.World, kind: Literal["deepspeed", "fsdp2"] = "deepspeed"
    ) -> None:
        self.updates, stage = 0, 2 if kind == "fsdp2" else 1
        settings = EngineConfig(kind=kind, zero_stage=stage, gradient_clipping=CLIPPING)
        self.engine = make_engine(_Given(material), settings, OPTIMIZER, world)
        self.ema = Ema(ONE, self.engine.masters)

    def prepare(self) -> None:
        self.engine.backward(self.engine())

    def step(self) -> None:
        self.updates += 1
        self.engine.step(LR)
        self.ema.update(self.engine.masters, self.engine.updates)

    def result(self) -> list[Numbers]:
        averages, moments = next(iter(self.ema.averages.values())), self.engine.moments()["exp_avg"]
        found = {
            s.name: (s.view(self.engine.masters), s.view(averages), s.view(moments))
            for s in self.engine.shards
        }
        return [found[name] for name, _ in self.engine.module.named_parameters()]


class _Given(nn.Module):
    """A network whose backward pass gives the gradients it was made with."""

    def __init__(self, material: Material) -> None:
        super().__init__()
        self.network = copy.deepcopy(material.network)
        self._gradients = [g.bfloat16() for g in material.gradients]

    def forward(self) -> Tensor:
        return _Gradients.apply(self._gradients, *self.network.parameters())


class _Gradients(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gradients: list[Tensor], *parameters: Tensor) -> Tensor:
        ctx.gradients = gradients
        return parameters[0].new_zeros((), dtype=torch.float32)

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        return (None, *ctx.gradients)


Updated = Usual | Bare | Sharded
