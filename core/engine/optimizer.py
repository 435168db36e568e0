"""What every engine's optimizer is given: its settings, its state, and where Muon's matrices lie."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from core.distributed.ranks import Group
from core.engine.config import EngineConfig
from core.engine.sharded_muon import MOMENTUM, MuonAdamW
from core.engine.shards import Cut, Shard, require_cuts
from core.optim.groups import OptimizerConfig


def settings_of(config: OptimizerConfig) -> dict[str, Any]:
    """Return the arguments of torch's AdamW."""
    return {"lr": config.lr, "betas": tuple(config.betas), "eps": config.eps, "fused": True}


def share_matrices(
    optimizer: torch.optim.Optimizer,
    masters: list[Tensor],
    shards: list[Shard],
    cuts: list[Cut],
    engine: EngineConfig,
    rank: int,
    size: int,
    group: Group = None,
) -> None:
    """Tell Muon where the matrices lie.

    shards: what this rank has, `rank` of `size` that share them.  cuts: what any of these has.  group: in
    which they communicate.
    """
    if isinstance(optimizer, MuonAdamW):
        require_cuts(cuts, shards, rank)
        dtype = torch.bfloat16 if engine.precision == "bf16" else torch.float32
        optimizer.share_matrices(masters, shards, cuts, rank, size, dtype, group)


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
