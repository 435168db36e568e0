"""Count the bytes of tensors that live during a forward and backward pass.

Counted are the storages of all tensors that operations make, from the moment they are made until nothing
refers to them. On the CPU that is what a process grows by, to 2 to 8 % (autoencoder at 128 and 256 pixels,
bf16); libraries' own scratch memory is not seen. The pass need not compute anything: under torch's fake
tensors the same operations run over shapes alone, and the counts are equal to the byte.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterable
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from core import garbage

SMALL = 1e9  # numbers of the input times parameters: up to here a pass takes less time than fake tensors do

Pass = Callable[[], tuple[nn.Module, Callable[[], Tensor]]]
"""Makes a network and what computes its loss: both new, so that nothing of the run is touched."""


class Uncompiled(TorchDispatchMode):
    """A mode that torch does not load its compiler for."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Whether torch is to keep its compiler out of `__torch_dispatch__`, which would load it (1.5 s)."""
        return False


class LiveBytes(Uncompiled):
    """Within the block, notes in `trace` how many bytes live after each operation.

    besides: tensors that are not counted, nor what looks at them, such as transposed weights.
    building: the context in which networks to be counted are made.  computes: whether values matter.
    """

    computes = True
    building: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext

    def __init__(self, besides: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self.trace: list[int] = [0]
        self._live = 0
        self._besides = [tensor.untyped_storage() for tensor in besides]  # held, so that no key is used again
        self._known: set[int] = {storage._cdata for storage in self._besides}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = self.result(func, args, kwargs or {})
        if func is torch.ops.prim.device.default:  # only fake tensors are asked by an operation
            return result
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._note(leaf.untyped_storage())
        self.trace.append(self._live)
        return result

    def result(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Return what an operation gives; a subclass may leave out its work."""
        return func(*args, **kwargs)

    def _note(self, storage: Any) -> None:
        key = storage._cdata
        if key not in self._known:
            self._known.add(key)
            self._live += storage.nbytes()
            weakref.finalize(storage, self._forget, key, storage.nbytes())

    def _forget(self, key: int, size: int) -> None:
        self._known.discard(key)
        self._live -= size


def live_bytes(
    make: Pass,
    *,
    dtype: torch.dtype,
    device: torch.device,
    fake: bool,
    counter: type[LiveBytes] = LiveBytes,
) -> list[int]:
    """Return the bytes that live after each operation of a forward and backward pass, weights left out.

    Gradients of weights are let go as they come, since the state of training accounts for them. torch's
    generators are left as they were.
    fake: over shapes alone, which loads torch's compiler; else the pass is computed.  counter: counts.
    """
    if fake:
        with garbage.none_expected():
            from torch._subclasses import FakeTensorMode

            shapes: contextlib.AbstractContextManager[Any] = FakeTensorMode(allow_non_fake_inputs=True)
    else:
        shapes = contextlib.nullcontext()
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices), shapes, device:
        with counter.building():
            model, loss = make()
        prepare(model, dtype, is_empty=not counter.computes)
        weights = chain(model.parameters(), model.buffers())
        with counter(weights) as counted:
            loss().backward()
    return counted.trace


def device_peak(make: Pass, *, dtype: torch.dtype, device: torch.device) -> list[int]:
    """Return the most bytes that CUDA's allocator held for a computed pass, weights left out."""
    with torch.random.fork_rng([device]), device:
        model, loss = make()
        prepare(model, dtype)
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        loss().backward()
        torch.cuda.synchronize(device)
        return [torch.cuda.max_memory_allocated(device) - before]


def prepare(model: nn.Module, dtype: torch.dtype, *, is_empty: bool = False) -> None:
    """Compute as the engine does, with parameters (buffers stay) of `dtype`, and keep no gradient.

    Parameters that are tagged `in_fp32` stay too.  is_empty: parameters are to have their type alone.
    """

    def let_go(parameter: Tensor) -> None:
        parameter.grad = None

    for parameter in model.parameters():
        if not getattr(parameter, "in_fp32", False):
            values = parameter.data
            parameter.data = torch.empty_like(values, dtype=dtype) if is_empty else values.to(dtype)
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(let_go)
