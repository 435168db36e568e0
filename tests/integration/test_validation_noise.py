"""Effect of the choice of draws on the validation loss of a trained network.

Run: pytest tests/integration/test_validation_noise.py
"""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import pytest
import torch

from core.batch import Batch, Condition
from core.diffusion.objective import Objective
from core.diffusion.objectives.config import ObjectiveConfig
from core.diffusion.timesteps import TimestepConfig
from core.distributed import ranks
from core.draws import Draws
from core.engine.config import EngineConfig
from core.engine.engine import Engine
from core.engine.kinds import make_engine
from core.losses import Losses
from core.metrics.phases import Phases
from core.optim.groups import OptimizerConfig
from core.train.validation import Validation, ValidationConfig
from models.denoisers.dit import DiT, DiTConfig

LATENT = (4, 1, 8, 8)  # as small as the demo's; larger ones average more
CLASSES, PATTERNS, SIZE = 3, 2, 64


class Flow:
    """Flow matching on the batch itself, at the times that the demo trains."""

    def __init__(self) -> None:
        self._objective = Objective(ObjectiveConfig(timesteps=TimestepConfig(kind="logit_normal")))

    def loss(self, model: Any, batch: Batch, draws: Draws) -> Losses:
        return self._objective.loss(model, batch.x, batch.condition, draws)


def samples(first: int) -> Batch:
    """Draw mixtures of few patterns, so that there is something to learn."""
    patterns = torch.randn(PATTERNS, *LATENT, generator=torch.Generator().manual_seed(1))
    shares = torch.randn(SIZE, PATTERNS, generator=torch.Generator().manual_seed(first)) / PATTERNS**0.5
    ids = torch.arange(first, first + SIZE)
    condition = Condition(label=ids % CLASSES)
    return Batch((shares @ patterns.flatten(1)).view(SIZE, *LATENT), ids, ids, torch.ones(SIZE), condition)


@pytest.fixture(scope="module")
def engine() -> Engine:
    """Train a network for a hundred steps."""
    torch.manual_seed(0)
    network = DiT(DiTConfig(width=32, depth=2, heads=2, num_classes=CLASSES))
    config = EngineConfig(device="cpu", zero_stage=0, precision="fp32")
    engine = make_engine(network, config, OptimizerConfig(), ranks.start("cpu", 60))
    for step in range(100):
        batch = samples((step + 100) * SIZE)
        draws = Draws(0, step, batch.id, batch.position)
        engine.backward(Flow().loss(engine, batch, draws).loss.mean())
        engine.step(5e-3, 1.0)
    return engine


def losses(engine: Engine, config: ValidationConfig) -> list[float]:
    """Measure losses of the same weights and samples under five choices of all draws."""
    batches = [samples(first) for first in range(0, config.samples, SIZE)]
    return [
        Validation(engine, Flow(), lambda: batches, config, folder=Path(), seed=seed).measure(None, Phases())[
            "loss"
        ]
        for seed in range(5)
    ]


def spread(values: list[float]) -> float:
    """Return the relative standard deviation."""
    return statistics.stdev(values) / statistics.mean(values)


def test_the_choice_of_draws_moves_the_loss_of_a_network_by_less_than_0_3_percent(engine: Engine) -> None:
    usual, coarse = losses(engine, ValidationConfig()), losses(engine, ValidationConfig(strata=1))
    assert statistics.mean(usual) < 1.2  # of 2.0 where nothing was learnt
    assert spread(usual) <= 0.003
    assert spread(coarse) > 6 * spread(usual)  # and not sqrt(10), as with times that are not spread evenly
    assert statistics.mean(coarse) == pytest.approx(statistics.mean(usual), rel=0.03)
