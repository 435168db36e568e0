"""Count gathered weights that stay alive at ZeRO stage 3; run as a program on every rank of a world."""

from __future__ import annotations

import json
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

from core.distributed import ranks
from core.distributed.ranks import World
from core.engine.activation_checkpointing import checkpoint_blocks
from core.engine.config import EngineConfig
from core.engine.engine import Engine
from core.engine.kinds import make_engine
from core.engine.zero import zero_engine
from core.engine.zero.gathered_linear import GatheredLinear
from core.optim.groups import OptimizerConfig
from core.run.ending import end_with

WIDTH = 8
MODES = ("none", "selective", "every_k", "full")


class Stack(nn.Module):
    """Three blocks; kind: of their layers."""

    def __init__(self, kind: type[nn.Linear]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(kind(WIDTH, 2 * WIDTH), nn.GELU(), kind(2 * WIDTH, WIDTH)) for _ in range(3)
        )

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = x + block(x)
        return x


def engine_of(world: World, kind: type[nn.Linear] = nn.Linear, **fields: Any) -> Engine:
    """Return a Stack under training, at stage 3 in fp32 where `fields` say nothing else."""
    torch.manual_seed(0)
    config = EngineConfig(**{"device": "cpu", "precision": "fp32", "zero_stage": 3, **fields})
    model = Stack(kind)
    checkpoint_blocks(model.blocks, config)
    return make_engine(model, config, OptimizerConfig(), world)


def layers(engine: Engine) -> list[nn.Linear]:
    """Return the linear layers of its network."""
    return [module for module in engine.module.modules() if isinstance(module, nn.Linear)]


def free_all() -> None:
    """Have stage 3 free every weight after its layer; it keeps those of a network as small as this one."""
    usual = zero_engine.deepspeed_config

    def small(*arguments: Any) -> dict[str, Any]:
        settings = usual(*arguments)
        keys = ("param_persistence_threshold", "max_live_parameters", "max_reuse_distance")
        settings["zero_optimization"] |= dict.fromkeys([f"stage3_{key}" for key in keys], 0)
        settings["zero_optimization"]["stage3_prefetch_bucket_size"] = 0
        return settings

    zero_engine.deepspeed_config = small


def count_alive(engine: Engine) -> tuple[int, Tensor]:
    """Return how many gathered weights live after a forward pass, and the loss, which holds its graph."""
    seen: list[StorageWeakRef] = []

    def note(layer: nn.Module, inputs: Any) -> None:
        assert layer.weight.numel() == 2 * WIDTH**2, "not gathered yet"
        seen.append(StorageWeakRef(layer.weight.untyped_storage()))

    handles = [layer.register_forward_pre_hook(note) for layer in layers(engine)]
    loss = engine(torch.randn(2, 5, WIDTH)).square().mean()
    for handle in handles:
        handle.remove()
    assert len(seen) == len(layers(engine))
    return sum(not weight.expired() for weight in seen), loss


def train(engine: Engine) -> list[float]:
    """Return losses and gradient norms of three steps."""
    found = []
    for step in range(3):
        torch.manual_seed(step)
        loss = engine(torch.randn(2, 5, WIDTH)).square().mean()
        engine.backward(loss)
        found += [loss.item(), engine.step(1e-2).grad_norm]
    return found


def main() -> None:
    """Print what lives with this layer and with torch's, and the steps of every mode at stages 1 and 3."""
    world = ranks.start("cpu", 60)
    free_all()
    alive, _ = count_alive(engine_of(world))
    own, GatheredLinear.forward = GatheredLinear.forward, nn.Linear.forward  # type: ignore[method-assign]
    alive_by_torch, _ = count_alive(engine_of(world))
    GatheredLinear.forward = own  # type: ignore[method-assign]
    steps = {
        mode: [train(engine_of(world, zero_stage=stage, activation_checkpointing=mode)) for stage in (1, 3)]
        for mode in MODES
    }
    print(json.dumps({"alive": [alive, alive_by_torch], "steps": steps}))
    ranks.stop(world)


if __name__ == "__main__":
    end_with(main)
