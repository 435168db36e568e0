"""Hash weights, and build a network's shapes without any weights."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


def fingerprint(state: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of names, types, shapes and bytes of weights on the CPU, looked at one by one."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        add_bytes(digest, tensor)
    return digest.hexdigest()


def add_bytes(digest: Any, tensor: Tensor) -> None:
    """Hash a CPU tensor's bytes where they lie."""
    digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy())


@contextlib.contextmanager
def shapes_only() -> Iterator[None]:
    """Make networks within the block on torch's meta device: shapes without memory, and nothing is drawn."""
    with torch.device("meta"), _NothingDrawn():
        yield


def count_numbers(build: Callable[[], nn.Module]) -> int:
    """Count the trainable and fixed numbers of the network that `build` makes, without allocating them."""
    with shapes_only():
        return sum(parameter.numel() for parameter in build().parameters())


class _NothingDrawn(TorchFunctionMode):
    """Skips drawing on the meta device, for which torch loads its compiler, which takes a second."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is nn.init.normal_:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **(kwargs or {}))
