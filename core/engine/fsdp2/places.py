"""Where FSDP2 keeps the rows of each parameter, and its whole tensor during passes.

The only module that knows FSDP2's internals; measured on torch 2.13.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from core.first_values.recording import First


class Place:
    """A parameter as FSDP2 keeps it: this rank's rows, padded to as many as the first rank has.

    shape: of the whole parameter.  padded: how many numbers the rows take with padding.  start, stop: the
    range of the flattened parameter that the rows are.
    """

    def __init__(self, kept: Any, module: FSDPModule, rank: int) -> None:
        self._kept, self._module = kept, module
        self.shape = tuple(kept._orig_size)
        self.rows = kept.sharded_size
        self.padded = kept.padded_sharded_param_size.numel()
        self.start = min(rank * self.padded, math.prod(self.shape))
        self.stop = self.start + self.rows.numel()

    @property
    def parameter(self) -> nn.Parameter:
        """Return the parameter that the module has between passes, a DTensor."""
        found = self._kept.sharded_param
        assert isinstance(found, nn.Parameter)
        return found

    @property
    def local(self) -> Tensor:
        """Return this rank's rows, as a plain tensor."""
        found = self._kept.sharded_param._local_tensor.detach()
        assert isinstance(found, Tensor)
        return found

    @torch.no_grad()
    def move(self, memory: Tensor) -> None:
        """Have the rows lie in `memory`, 1-D, of `padded` numbers, and copy them there."""
        memory.copy_(self._kept._sharded_param_data)
        self._kept._sharded_param_data = memory
        self._kept.sharded_param._local_tensor = memory[: self.rows.numel()].view(self.rows)

    @torch.no_grad()
    def write(self, first: First) -> None:
        """Write the first values of this rank's rows."""
        self.local.view(-1).copy_(first(self.start, self.stop))

    def sum_from_zero(self) -> None:
        """Begin the sum of micro-steps before it is reduced, if none has: all are to be of one dtype."""
        kept = self._kept
        if kept.reduce_dtype is not None and kept.unsharded_accumulated_grad is None:
            zeros = torch.zeros(self.shape, dtype=kept.reduce_dtype, device=kept.device)
            kept.unsharded_accumulated_grad = zeros

    def whole(self) -> nn.Parameter:
        """Return the parameter that the module has during passes; its memory is there then alone.

        Collective in a module that has not been used yet, whose weights are gathered once for it.
        """
        if not hasattr(self._kept, "_unsharded_param"):
            self._module.unshard()
            self._module.reshard()
        found = self._kept._unsharded_param
        assert isinstance(found, nn.Parameter)
        found.requires_grad_(self.parameter.requires_grad)  # it may have been constant when last used
        return found


def places(network: nn.Module, rank: int) -> dict[str, Place]:
    """Return the places of all parameters by name; rank: among those that share the state."""
    names = {id(p): name for name, p in network.named_parameters()}
    found = {id(kept.sharded_param): Place(kept, module, rank) for module, kept in _kept(network)}
    return {name: found[number] for number, name in names.items()}


def make_ready(network: FSDPModule) -> None:
    """Have FSDP2 look at the parameters now: a first pass may come while they are not trained."""
    network._get_fsdp_state()._lazy_init()


def sharded_modules(network: nn.Module) -> list[FSDPModule]:
    """Return the modules whose weights are gathered together."""
    return [module for module in network.modules() if isinstance(module, FSDPModule)]


def _kept(network: nn.Module) -> Iterator[tuple[FSDPModule, Any]]:
    for module in sharded_modules(network):
        for group in module._get_fsdp_state()._fsdp_param_groups:
            yield from ((module, kept) for kept in group.fsdp_params)
