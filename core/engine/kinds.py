"""The kinds of engines, by `engine.kind`. A process imports only the library of the one it uses."""

from __future__ import annotations

from torch import nn

from core import garbage
from core.distributed.ranks import World
from core.engine.config import EngineConfig
from core.engine.engine import Engine
from core.optim.groups import OptimizerConfig
from core.progress import say


def make_engine(model: nn.Module, engine: EngineConfig, optimizer: OptimizerConfig, world: World) -> Engine:
    """Put a network under training (collective: all ranks, networks in the same order)."""
    if engine.kind == "deepspeed" and engine.stage == 3 and world.device.type == "cuda":
        say("engine: kind=deepspeed compiles no whole block at ZeRO stage 3; engine.kind=fsdp2 would")
    with garbage.none_expected():  # torch's optimizers import its compiler when the first is made
        if engine.kind == "fsdp2":
            from core.engine.fsdp2.fsdp_engine import FsdpEngine

            return FsdpEngine(model, engine, optimizer, world)
        from core.engine.zero.zero_engine import ZeroEngine

        return ZeroEngine(model, engine, optimizer, world)
