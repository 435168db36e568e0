"""The optimizer that the engine runs at each ZeRO stage, and its state."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from core.distributed.ranks import World
from core.engine.config import EngineConfig
from core.engine.replicated import Replicated
from core.engine.sharded_muon import MOMENTUM, MuonAdamW
from core.engine.shards import Cut, Shard, require_cuts
from core.optim.groups import OptimizerConfig


def make_optimizer(
    groups: list[dict[str, Any]], engine: EngineConfig, config: OptimizerConfig
) -> torch.optim.Optimizer:
    """Make the optimizer of the groups' parameters; sharded stages put flat tensors in their place."""
    settings: dict[str, Any] = {
        "lr": config.lr,
        "betas": tuple(config.betas),
        "eps": config.eps,
        "fused": True,
    }
    if engine.stage == 0:
        return Replicated(groups, gradient_clipping=engine.gradient_clipping, **settings)
    rule = MuonAdamW if config.name == "muon" else torch.optim.AdamW
    return rule(groups, **settings)


def share_matrices(
    optimizer: torch.optim.Optimizer,
    masters: list[Tensor],
    shards: list[Shard],
    cuts: list[Cut],
    engine: EngineConfig,
    world: World,
) -> None:
    """Tell Muon where the matrices lie.

    shards: what this rank has.  cuts: what any rank has.
    """
    if isinstance(optimizer, MuonAdamW):
        rank, size = (0, 1) if engine.stage == 0 else (world.rank, world.size)
        require_cuts(cuts, shards, rank)
        dtype = torch.bfloat16 if engine.precision == "bf16" else torch.float32
        optimizer.share_matrices(masters, shards, cuts, rank, size, dtype)


def allocate_state(optimizer: torch.optim.Optimizer, masters: list[Tensor]) -> None:
    """Give the optimizer its state now, so that it can be saved and loaded before the first update."""
    for flat in masters:
        state = optimizer.state[flat]
        if isinstance(optimizer, MuonAdamW) and optimizer.has_matrices(flat):
            state[MOMENTUM] = torch.zeros_like(flat, requires_grad=False)
            continue
        state["step"] = torch.zeros((), dtype=torch.float32, device=flat.device)
        state["exp_avg"] = torch.zeros_like(flat, requires_grad=False)
        state["exp_avg_sq"] = torch.zeros_like(flat, requires_grad=False)
