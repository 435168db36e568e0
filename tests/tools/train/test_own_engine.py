"""The first values of an objective's own parameters follow from the run's seed alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from core.diffusion.objectives.config import ObjectiveConfig
from core.distributed.ranks import World
from core.engine.config import EngineConfig
from core.optim.groups import OptimizerConfig
from data.latent.normalising import Normaliser
from tools.train.objective import LatentObjective, own_engine


def test_what_was_drawn_before_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    """As by measuring which attention is fastest, which the first run on a machine does."""
    made: list[nn.Module] = []

    def make_engine(module: nn.Module, *others: Any) -> None:
        made.append(module)

    monkeypatch.setattr("core.engine.kinds.make_engine", make_engine)
    normaliser = Normaliser.from_dict({"mean": [0.0], "std": [1.0]})
    objective = LatentObjective(ObjectiveConfig(weighting="learned"), normaliser, frame_condition=False)
    world = World(0, 1, 0, torch.device("cpu"))
    for seed in (0, 0, 1):
        before = torch.random.get_rng_state()
        own_engine(objective, EngineConfig(), OptimizerConfig(), world, seed=seed)
        assert torch.equal(torch.random.get_rng_state(), before)
        torch.randn(1)
    frequencies = [dict(module.named_buffers())["parts.log_variance.frequency"] for module in made]
    assert torch.equal(frequencies[0], frequencies[1])
    assert not torch.equal(frequencies[0], frequencies[2])
