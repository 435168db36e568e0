"""Make the weights that an engine starts from: equal on all ranks, in the computing type and in fp32.

A network comes with its weights, which rank 0 then sends to all, or without (`core.first_values`): then each
rank makes what it keeps, one parameter after another, and no rank ever holds the whole network in fp32.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor, nn

from core.distributed.ranks import World
from core.first_values.recording import First, first_of


def agree(model: nn.Module, world: World) -> None:
    """Put the network on the device and broadcast rank 0's parameters and buffers."""
    model.to(world.device)
    if world.size > 1:
        for tensor in [*model.parameters(), *model.buffers()]:
            dist.broadcast(tensor.detach(), src=0)


def settle(
    model: nn.Module,
    world: World,
    dtype: torch.dtype,
    then: Callable[[nn.Parameter], None] | None = None,
    *,
    follow: bool = False,
) -> dict[str, First]:
    """Put the network's weights on the device in `dtype` (collective: all ranks).

    Return what gives the fp32 values of trainable ones where `dtype` is another type, {} where it is not.
    then: is called with each parameter as it comes, of a network without weights. Buffers stay as they are.
    follow: leave weights whose fp32 values are returned at zero, if the network comes without weights. The
    engine then makes its masters and copies them to the network; drawing them here too would draw all of them
    twice on every rank.
    """
    if firsts := first_of(model):
        follow &= dtype != torch.float32
        _make(model, world.device, dtype, then, follow)
        return firsts if dtype != torch.float32 else {}
    agree(model, world)
    if dtype == torch.float32:
        return {}
    for name, p in model.named_parameters():
        if p.requires_grad:  # uncopied where it is on the CPU: casting gives a parameter new memory
            firsts[name] = _of(p.detach().to("cpu", torch.float32))
        if p.is_floating_point():
            p.data = p.data.to(dtype)
    return firsts


def _of(values: Tensor) -> First:
    return lambda start, stop: values.flatten()[start:stop]


def _make(
    model: nn.Module,
    device: torch.device,
    dtype: torch.dtype,
    then: Callable[[nn.Parameter], None] | None,
    follow: bool,
) -> None:
    """Make each parameter in turn, with the tags that it has; one that is used twice stays one.

    Buffers, which have their values, are put on the device.
    """
    made: dict[int, tuple[nn.Parameter, nn.Parameter]] = {}  # the old ones too, whose addresses stay theirs
    for module in model.modules():
        for name, p in module.named_parameters(recurse=False, remove_duplicate=False):
            if id(p) not in made:
                if follow and p.requires_grad:
                    values = torch.zeros(p.shape, dtype=dtype, device=device)
                else:
                    values = p.first(0, p.numel()).view(p.shape).to(device, dtype)  # type: ignore[attr-defined]
                new = nn.Parameter(values, requires_grad=p.requires_grad)
                new.__dict__.update({k: v for k, v in p.__dict__.items() if k != "first"})
                made[id(p)] = (p, new)
                if then is not None:
                    then(new)
            setattr(module, name, made[id(p)][1])
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, buffer.to(device))
