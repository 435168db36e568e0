"""The kinds of engines."""

from __future__ import annotations

from torch import nn

from core.distributed.ranks import World
from core.engine.config import EngineConfig
from core.engine.engine import Engine
from core.optim.groups import OptimizerConfig


def make_engine(model: nn.Module, engine: EngineConfig, optimizer: OptimizerConfig, world: World) -> Engine:
    """Put a network under training (collective: all ranks, networks in the same order)."""
    from core.engine.zero.zero_engine import ZeroEngine

    return ZeroEngine(model, engine, optimizer, world)
