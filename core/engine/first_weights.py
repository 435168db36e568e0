"""The weights that an engine starts from: equal on all ranks, kept in fp32, in the type that computes."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn

from core.distributed.ranks import World


def agree(model: nn.Module, world: World) -> None:
    """Put the network on the device and broadcast rank 0's parameters and buffers."""
    model.to(world.device)
    if world.size > 1:
        for tensor in [*model.parameters(), *model.buffers()]:
            dist.broadcast(tensor.detach(), src=0)


def on_host(model: nn.Module) -> dict[str, Tensor]:
    """Return the fp32 weights, uncopied where they are on the CPU: casting gives parameters new memory."""
    trainable = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    return {n: p.detach().to("cpu", torch.float32) for n, p in trainable}


def cast_parameters(model: nn.Module, dtype: torch.dtype) -> None:
    """Cast parameters but not buffers, as DeepSpeed does at the other stages."""
    for p in model.parameters():
        if p.is_floating_point():
            p.data = p.data.to(dtype)
