"""Access to the fp32 masters of each ZeRO stage in DeepSpeed, and how the network's weights follow them.

The only module that knows DeepSpeed's internals; measured on 0.19. The result is the same for every stage:
flat fp32 tensors, and which range of which parameter lies where in them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from core import environment
from core.engine.shards import Cut, Shard
from core.engine.zero.replicated import Replicated


def masters(optimizer: Any) -> list[Tensor]:
    """Return the fp32 master tensors of this rank, under whatever name the stage keeps them."""
    for attribute in (
        "masters",  # stage 0: Replicated
        "fp32_groups_flat_partition",  # stage 1 in bf16 with fp32 gradients: BF16_Optimizer
        "single_partition_of_fp32_groups",  # stages 1 and 2
        "fp32_partitioned_groups_flat",  # stage 3
    ):
        if hasattr(optimizer, attribute):
            return list(getattr(optimizer, attribute))
    raise TypeError(f"no fp32 masters known for {type(optimizer).__name__}")


def locate(optimizer: Any, model: nn.Module, rank: int) -> list[Shard]:
    """Return the ranges of parameters that this rank holds, in the order of the masters."""
    names = {id(p): name for name, p in model.named_parameters()}
    if isinstance(optimizer, Replicated):
        return [
            Shard(names[id(p)], tuple(p.shape), 0, p.numel(), flat, offset)
            for p, flat, offset in optimizer.layout
        ]
    if hasattr(optimizer, "fp32_partitioned_groups_flat"):
        return list(_locate_stage3(optimizer, names, rank))
    return list(_locate_stage12(optimizer, names))


def _locate_stage12(optimizer: Any, names: dict[int, str]) -> Iterator[Shard]:
    groups = optimizer.bf16_groups if hasattr(optimizer, "bf16_groups") else optimizer.bit16_groups
    for flat, group in enumerate(groups):
        for p in group:
            if p._hp_mapping is not None:
                source, target = p._hp_mapping.lp_fragment_address, p._hp_mapping.hp_fragment_address
                stop = source.start + source.numel
                yield Shard(names[id(p)], tuple(p.shape), source.start, stop, flat, target.start)


def _locate_stage3(optimizer: Any, names: dict[int, str], rank: int) -> Iterator[Shard]:
    for flat, group in enumerate(optimizer.fp16_groups):
        offset = 0
        for p in group:
            size = p.ds_tensor.ds_numel  # every rank's part, the last ones padded
            start, stop = rank * size, min((rank + 1) * size, p.ds_numel)
            if start < stop:
                yield Shard(names[id(p)], tuple(p.ds_shape), start, stop, flat, offset)
            offset += size


def cuts(optimizer: Any, model: nn.Module) -> list[Cut]:
    """Return how every parameter is cut over ranks, in the order of the masters; the same on all of them."""
    names = {id(p): name for name, p in model.named_parameters()}
    if isinstance(optimizer, Replicated):  # one rank's view: it has everything
        return [Cut(names[id(p)], tuple(p.shape), flat, 0, p.numel()) for p, flat, _ in optimizer.layout]
    if hasattr(optimizer, "fp32_partitioned_groups_flat"):
        return [
            Cut(names[id(p)], tuple(p.ds_shape), flat, 0, p.ds_tensor.ds_numel)
            for flat, group in enumerate(optimizer.fp16_groups)
            for p in group
        ]
    groups = optimizer.bf16_groups if hasattr(optimizer, "bf16_groups") else optimizer.bit16_groups
    found = []
    for flat, (group, master) in enumerate(zip(groups, masters(optimizer), strict=True)):
        offset = 0
        for p in group:
            found.append(Cut(names[id(p)], tuple(p.shape), flat, offset, master.numel()))
            offset += p.numel()
    return found


@torch.no_grad()
def publish(optimizer: Any) -> None:
    """Make the network's weights follow the masters after these were written to (collective: all ranks)."""
    if isinstance(optimizer, Replicated):
        optimizer.publish()
    elif hasattr(optimizer, "fp32_partitioned_groups_flat"):
        for index, master in enumerate(optimizer.fp32_partitioned_groups_flat):
            optimizer.fp16_partitioned_groups_flat[index].data.copy_(master.data)
            optimizer._unflatten_partitioned_parameters(index)
        kept = optimizer.persistent_parameters  # small ones that stay gathered between steps
        if kept:
            # The next forward pass gathers them, as after the start. Gathered here, one that is used outside
            # of its own module would only be met as such by a later pass, when the order of fetches is fixed.
            kept[0].partition(kept)
        _settle()
    else:
        optimizer.update_lp_params()


@contextlib.contextmanager
def gathered(parameters: list[nn.Parameter], *, write: bool = False) -> Iterator[None]:
    """Make partitioned parameters (stage 3) whole within the block; `write` keeps rank 0's values."""
    import deepspeed  # picks its device at import, so not before the world is known

    partitioned = [p for p in parameters if hasattr(p, "ds_id")]
    with deepspeed.zero.GatheredParameters(partitioned, modifier_rank=0 if write else None):
        yield
    if write and partitioned:
        _settle()


def _settle() -> None:
    """Wait until the device has written this rank's parts of the weights (stage 3).

    DeepSpeed gathers on a stream of its own, which does not wait for what others have queued; its own step
    ends in a wait for the whole device.
    """
    from deepspeed.accelerator import get_accelerator

    accelerator = get_accelerator()
    if not accelerator.is_synchronized_device():
        accelerator.current_stream().synchronize()


def sharing(
    library: Any, settings: dict[str, Any], dtype: torch.dtype, device: torch.device
) -> Callable[[nn.Parameter], None]:
    """Return what shares a parameter out over all ranks as stage 3 does, from rank 0's values (collective).

    library: DeepSpeed.  settings: its configuration.
    """
    with environment.local_rank_by_device(device.index):
        init = library.zero.Init(module=nn.Module(), config_dict_or_path=settings, dtype=dtype)
    share: Callable[[nn.Parameter], None] = init._zero_init_param
    return share
