"""Two adversarial networks, for tests: a kind of step that the project does not know.

As a program: `python tests/core/train/adversarial_run.py --run=FOLDER field=value ...`, as `toy_run.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from core.averages.ema import Ema, EmaConfig
from core.batch import Batch
from core.distributed.ranks import World
from core.draws import Draws
from core.engine.config import EngineConfig
from core.engine.engine import Engine
from core.engine.kinds import make_engine
from core.engine.network import MAIN, Network
from core.losses import Losses
from core.metrics.rows import MetricsConfig
from core.optim.groups import OptimizerConfig
from core.run.ending import end_with
from core.train.config import TrainerConfig
from core.train.step import Step, Stepper, Turn
from core.train.trainer import Trainer
from core.train.training_data import TrainingData
from tests.core import toy_run
from tests.core.toy_run import WIDTH, engine_fields, toy_batches

STEPS = 8
EPS = 1e-3  # no gradient so small that rounding decides which way its update goes
OPTIMIZERS = (
    OptimizerConfig(lr=1e-2, eps=EPS, schedule="cosine"),
    OptimizerConfig(lr=3e-2, eps=EPS, betas=(0.0, 0.9)),
)


class Net(nn.Module):
    """A network with odd sizes, a frozen layer, a buffer that counts forward passes, and dropout."""

    def __init__(self, inputs: int, outputs: int, dropout: float) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(inputs, 29), nn.Linear(29, outputs)
        self.frozen = nn.Linear(29, 29).requires_grad_(False)
        self.dropout = nn.Dropout(dropout)
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        hidden = self.dropout(nn.functional.gelu(self.first(x.to(self.first.weight.dtype))))
        return self.second(hidden + self.frozen(hidden)).float()


class Adversarial(Stepper):
    """Trains a critic in every step, and in two of three the generator, by the critic's result.

    poison: the step_index in which the critic's loss is NaN.
    """

    validated = None

    def __init__(self, generator: Engine, critic: Engine, *, poison: int = -1) -> None:
        self.generator, self.critic = generator, critic
        emas = Ema(EmaConfig(decay=0.9), generator.masters), Ema(EmaConfig(decay=0.5), critic.masters)
        self.networks = {MAIN: Network(generator, emas[0]), "critic": Network(critic, emas[1])}
        self.balance, self._poison = 1.0, poison

    def turns(self, step_index: int) -> Sequence[Turn]:
        critic = Turn("critic", self.bad_loss if step_index == self._poison else self.critic_loss)
        return (critic, Turn(MAIN, self.generator_loss)) if step_index % 3 else (critic,)

    def rehearsed(self, step_index: int) -> Sequence[Turn]:
        return self.turns(1)

    def update(self, step: Step) -> None:
        super().update(step)
        if step.results["critic"].applied:
            self.balance = 0.9 * self.balance + 0.1 * step.results["critic"].grad_norm

    def state(self) -> dict[str, Any]:
        return {"balance": self.balance}

    def load(self, state: Mapping[str, Any]) -> None:
        self.balance = state["balance"]

    def critic_loss(self, batch: Batch, draws: Draws) -> Losses:
        with torch.no_grad():
            made = self.generator(draws.normal("latent", (5,)))
        true, false = self.critic(batch.x), self.critic(made)
        return Losses((softplus(-true) + softplus(false)).mean(1), extras={"true": true.mean(1)})

    def bad_loss(self, batch: Batch, draws: Draws) -> Losses:
        losses = self.critic_loss(batch, draws)
        return losses._replace(loss=losses.loss * float("nan"))

    def generator_loss(self, batch: Batch, draws: Draws) -> Losses:
        judged = self.critic(self.generator(draws.normal("latent", (5,))))
        return Losses((1 + self.balance) * softplus(-judged).mean(1), extras={"judged": judged.mean(1)})


def adversarial_trainer(
    folder: Path, world: World, *, seed: int = 0, dropout: float = 0.0, poison: int = -1, **fields: Any
) -> Trainer:
    """Make a trainer; fields: of TrainerConfig, EngineConfig; largest: try batches before the first step."""
    largest = fields.pop("largest", False)
    trainer = {name: fields.pop(name) for name in TrainerConfig.__dataclass_fields__ if name in fields}
    chosen = engine_fields(fields.pop("zero_stage", 2))
    engine = EngineConfig(**{"device": "cpu", "timeout_s": 60.0, **chosen, **fields})
    torch.manual_seed(seed)
    nets = Net(5, WIDTH, dropout), Net(WIDTH, 3, dropout)
    engines = [make_engine(net, engine, one, world) for net, one in zip(nets, OPTIMIZERS, strict=True)]
    batches = toy_batches(world, engine.most_at_once)
    return Trainer(
        Adversarial(*engines, poison=poison),
        TrainingData(batches=batches, largest=lambda: next(batches(0))[:1] if largest else []),
        TrainerConfig(**{"steps": STEPS, "save_every": 3, **trainer}),
        folder=folder,
        seed=7,
        metrics=MetricsConfig(log_every=2),
    )


def start(words: Sequence[str]) -> None:
    """Start as a program would, in a process of its own that was forked."""
    toy_run.start(words, main)


def main() -> int:
    """Run once per `--run=FOLDER field=value ...`, as `toy_run` does."""
    return toy_run.main(adversarial_trainer)


if __name__ == "__main__":
    end_with(main)
