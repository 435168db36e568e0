"""Replay on the CPU what was done to small tensors on the meta device, for the values of buffers.

A buffer is computed when its network is built, from numbers or from other tensors. What was done to any
tensor is kept in order; of it, what a buffer comes from is done once more with memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map


@dataclass(frozen=True)
class Done:
    """One operation, with what it was given and gave.

    begin: sets the random generator to where it was before, of an operation that draws.
    """

    function: Any
    arguments: tuple[Any, ...]
    options: dict[str, Any]
    result: Any
    begin: Callable[[], None]

    def touches(self, memory: set[int]) -> bool:
        """Return whether it made, viewed or changed any of the memory."""
        changed = (self.arguments, self.options) if self.function._schema.is_mutable else ()
        return not memory.isdisjoint(_addresses((self.result, changed)))


class Tape:
    """Operations on tensors of the meta device, in order. It keeps them alive, so addresses are theirs."""

    def __init__(self) -> None:
        self._done: list[Done] = []

    def note(self, done: Done) -> None:
        """Add what was done last."""
        self._done.append(done)

    def values(self, tensors: Sequence[Tensor]) -> list[Tensor] | None:
        """Return tensors as they would be on the CPU; None where that is not known.

        Ends with the generator anywhere.
        """
        memory: dict[int, torch.UntypedStorage] = {}
        with torch.no_grad():
            for step in self._behind(tensors):
                if not memory.keys() >= set(_addresses((step.arguments, step.options))):
                    return None
                _repeat(step, memory)
        is_known = memory.keys() >= set(_addresses(tensors))
        return [_on_cpu(tensor, memory) for tensor in tensors] if is_known else None

    def _behind(self, tensors: Sequence[Tensor]) -> list[Done]:
        """Return what was done to the tensors, and to those from which they come."""
        needed, found = set(_addresses(tensors)), list[Done]()
        for done in reversed(self._done):
            if done.touches(needed):
                needed |= set(_addresses((done.arguments, done.options)))
                found.append(done)
        return found[::-1]


def address(tensor: Tensor) -> int:
    """Return a number that tells a tensor's memory, also on the meta device, from that of others."""
    return tensor.untyped_storage()._cdata


def _addresses(values: Any) -> Iterable[int]:
    return (address(leaf) for leaf in tree_leaves(values) if isinstance(leaf, Tensor) and leaf.is_meta)


def _repeat(step: Done, memory: dict[int, torch.UntypedStorage]) -> None:
    """Do it on the CPU; memory: what tensors have there, by their address on the meta device."""

    def real(value: Any) -> Any:
        if isinstance(value, torch.device) and value.type == "meta":
            return torch.device("cpu")
        return _on_cpu(value, memory) if isinstance(value, Tensor) and value.is_meta else value

    step.begin()
    result = step.function(*tree_map(real, step.arguments), **tree_map(real, step.options))
    for before, made in zip(tree_leaves(step.result), tree_leaves(result), strict=True):
        if isinstance(before, Tensor) and before.is_meta:
            memory.setdefault(address(before), made.untyped_storage())


def _on_cpu(tensor: Tensor, memory: dict[int, torch.UntypedStorage]) -> Tensor:
    """Return the tensor that has its part of the memory on the CPU."""
    made = torch.empty(0, dtype=tensor.dtype)
    return made.set_(memory[address(tensor)], tensor.storage_offset(), tensor.shape, tensor.stride())
