"""Have FSDP2 shard a network: its blocks one by one, and what lies outside of them together."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

from core.engine.config import EngineConfig
from core.errors import UserError


def require_sharable(model: nn.Module) -> None:
    """Raise UserError, naming the parameter, where FSDP2 could not share it out by rows."""
    units = {
        id(module): f"blocks.{i}" for i, block in enumerate(_blocks(model)) for module in block.modules()
    }
    homes: dict[int, tuple[str, str]] = {}
    for path, module in model.named_modules():
        home = units.get(id(module), "")
        for own, parameter in module.named_parameters(recurse=False):
            name = f"{path}.{own}".lstrip(".")
            if parameter.ndim == 0:
                raise _refused(f"{name} is a single number, which has no rows to share out")
            first, other = homes.setdefault(id(parameter), (name, home))
            if other != home:
                raise _refused(f"{name} is also {first}, and the two are gathered at different times")


def shard(model: nn.Module, config: EngineConfig, mesh: DeviceMesh) -> None:
    """Shard a network whose weights all ranks hold, or none yet; rows of trained ones are fp32 (collective).

    Stage 3 frees a block's weights after its forward pass. What is outside of blocks stays for the backward
    pass, which begins there.
    """
    computed = torch.bfloat16 if config.precision == "bf16" else torch.float32
    for p in model.parameters():
        if p.is_floating_point():
            p.data = p.data.to(torch.float32 if p.requires_grad else computed)
    is_mixed = config.precision == "bf16"
    policy = MixedPrecisionPolicy(
        param_dtype=computed if is_mixed else None,
        reduce_dtype=torch.float32 if is_mixed else None,
        cast_forward_inputs=False,  # networks cast what they are given, as with other engines
    )
    blocks, frees = _blocks(model), config.stage == 3
    for block in blocks:
        fully_shard(block, mesh=mesh, reshard_after_forward=frees, mp_policy=policy)
    fully_shard(model, mesh=mesh, reshard_after_forward=frees and not blocks, mp_policy=policy)
    for module in (model, *blocks):
        _sharded(module).set_gradient_divide_factor(1.0)  # losses are shares of the step's: gradients sum up
        _sharded(module).set_force_sum_reduction_for_comms(True)
        # What only some ranks have used is zero on the others; left out there, ranks would not meet.
        _sharded(module).set_reduce_scatter_unused_params(True)
    _prefetch(_sharded(model), [_sharded(block) for block in blocks])


def give_memory(model: nn.Module, device: torch.device) -> None:
    """Give the rows of a network without weights memory on the device; buffers keep their values."""
    values = dict(model.named_buffers(remove_duplicate=False))
    model.to_empty(device=device)
    for name, buffer in model.named_buffers(remove_duplicate=False):
        buffer.copy_(values[name])


def _prefetch(root: FSDPModule, blocks: Sequence[FSDPModule]) -> None:
    """Gather each block's weights while the one before it computes, in either direction."""
    if blocks:
        root.set_modules_to_forward_prefetch([blocks[0]])
        root.set_modules_to_backward_prefetch([blocks[-1]])
    for before, after in itertools.pairwise(blocks):
        before.set_modules_to_forward_prefetch([after])
        after.set_modules_to_backward_prefetch([before])


def _blocks(model: nn.Module) -> list[nn.Module]:
    blocks = getattr(model, "blocks", ())
    return list(blocks) if isinstance(blocks, nn.ModuleList) else []


def _sharded(module: nn.Module) -> FSDPModule:
    assert isinstance(module, FSDPModule)
    return module


def _refused(reason: str) -> UserError:
    return UserError("kind", "fsdp2", f"deepspeed: {reason}")
