"""The optimizer that DeepSpeed runs at each ZeRO stage."""

from __future__ import annotations

from typing import Any

import torch

from core.engine.config import EngineConfig
from core.engine.optimizer import settings_of
from core.engine.sharded_muon import MuonAdamW
from core.engine.zero.replicated import Replicated
from core.optim.groups import OptimizerConfig


def make_optimizer(
    groups: list[dict[str, Any]], engine: EngineConfig, config: OptimizerConfig
) -> torch.optim.Optimizer:
    """Make the optimizer of the groups' parameters; sharded stages put flat tensors in their place."""
    settings = settings_of(config)
    if engine.stage == 0:
        return Replicated(groups, gradient_clipping=engine.gradient_clipping, **settings)
    rule = MuonAdamW if config.name == "muon" else torch.optim.AdamW
    return rule(groups, **settings)
