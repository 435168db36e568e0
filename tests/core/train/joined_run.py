"""A network and an objective with parameters of its own, for tests.

As a program: `python tests/core/train/joined_run.py --run=FOLDER field=value ...`, as `toy_run.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from core.averages.ema import EmaConfig
from core.batch import Batch
from core.distributed.ranks import World
from core.draws import Draws
from core.engine.config import EngineConfig
from core.engine.joined import joined
from core.engine.kinds import make_engine
from core.losses import Losses
from core.metrics.rows import MetricsConfig
from core.optim.groups import OptimizerConfig
from core.run.ending import end_with
from core.train.config import TrainerConfig
from core.train.single import SingleStepper
from core.train.trainer import Trainer
from core.train.training_data import TrainingData
from core.train.validation import ValidationConfig
from tests.core import toy_run
from tests.core.toy_run import WIDTH, ToyModel, toy_batches

STEPS = 8
OPTIMIZER = OptimizerConfig(lr=1e-2, eps=1e-3, schedule="cosine")


class Own(nn.Module):
    """A log-variance of the time, and a projection of the network's output; with odd sizes and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.variance = nn.Linear(1, 7), nn.Linear(7, 1)
        self.projection = nn.Linear(WIDTH, 5)
        self.register_buffer("frequency", torch.rand(1))

    def forward(self, part: str, x: Tensor) -> Tensor:
        if part == "projection":
            return self.projection(x)
        return self.variance((self.hidden(x) + self.frequency).cos())[:, 0]


class JoinedObjective:
    """Reconstructs the input, with a learned weight, and aligns a projection of the output with a part of it.

    own: calls the objective's parameters.  poison: the step_index in which the log-variance alone is NaN.
    """

    def __init__(self, own: Callable[..., Tensor], poison: int = -1) -> None:
        self._own, self._poison = own, poison

    def loss(self, model: Any, batch: Batch, draws: Draws) -> Losses:
        time = draws.uniform("time")
        output = model(batch.x + time[:, None] * draws.normal("noise", (WIDTH,)))
        squared = (output - batch.x).square().mean(1)
        far = (self._own("projection", output) - batch.x[:, :5]).square().mean(1)
        variance = self._own("variance", time[:, None])
        if draws.step_index == self._poison:
            variance = _Poisoned.apply(variance)
        return Losses(squared * (-variance).exp() + variance + 0.5 * far, time, {"variance": variance})


class _Poisoned(torch.autograd.Function):
    """The identity with a gradient of NaN."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * float("nan")


def joined_trainer(folder: Path, world: World, **fields: Any) -> Trainer:
    """Make a trainer; fields: of TrainerConfig and EngineConfig, dropout, poison, validate_every; largest:
    try batches before the first step."""
    dropout, poison = fields.pop("dropout", 0.0), fields.pop("poison", -1)
    largest, every = fields.pop("largest", False), fields.pop("validate_every", 0)
    trainer = {name: fields.pop(name) for name in TrainerConfig.__dataclass_fields__ if name in fields}
    config = EngineConfig(**{"device": "cpu", "timeout_s": 60.0, "zero_stage": 2, **fields})
    torch.manual_seed(0)
    engine = make_engine(ToyModel(dropout), config, OPTIMIZER, world)
    own = make_engine(Own(), replace(config, precision="fp32"), OPTIMIZER, world)
    batches = toy_batches(world, config.most_at_once)
    objective = JoinedObjective(partial(joined, own), poison)
    return Trainer(
        SingleStepper(engine, objective, EmaConfig(decay=0.9), own),
        TrainingData(
            batches=batches,
            largest=lambda: next(batches(0))[:1] if largest else [],
            validation=lambda: next(toy_batches(world, 2)(10**6)),
        ),
        TrainerConfig(**{"steps": STEPS, "save_every": 3, "collect_every": 0, **trainer}),
        folder=folder,
        seed=7,
        metrics=MetricsConfig(log_every=2),
        validation=ValidationConfig(every=every),
    )


def start(words: Sequence[str]) -> None:
    """Start as a program would, in a process of its own that was forked."""
    toy_run.start(words, main)


def main() -> int:
    """Run once per `--run=FOLDER field=value ...`, as `toy_run` does."""
    return toy_run.main(joined_trainer)


if __name__ == "__main__":
    end_with(main)
