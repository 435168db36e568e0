"""A stand-in GPU: tensors that report `cuda:0`, compute on the CPU, and record who waits.

torch's own FakeTensorMode cannot do it in a build without CUDA: indexing and every backward pass ask for the
driver's device guard. Here values are real, so whole steps run and can be compared with the CPU's.

- Tensors of two devices in one operation raise, as on a GPU.
- What makes the host wait for the device is noted with the line of code that did it: a value that is read,
  a copy between the devices that is not `non_blocking`, a result whose size depends on values.
"""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from core.root import ROOT

GPU = torch.device("cuda", 0)
aten = torch.ops.aten

# What reads values on the host, or must know them to give its result a size.
READS = {
    aten._local_scalar_dense.default,
    aten.equal.default,
    aten.nonzero.default,
    aten.masked_select.default,
    aten.repeat_interleave.Tensor,
    aten._unique2.default,
    aten.is_nonzero.default,
}
COPIES = {aten.copy_.default, aten._foreach_copy_.default}
_waits: list[str] = []


class OnGpu(Tensor):
    """A tensor on the stand-in; `inner` holds its values."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> OnGpu:
        made = Tensor._make_wrapper_subclass(
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            requires_grad=inner.requires_grad,
        )
        made.inner = inner.detach()
        return made

    device = property(lambda self: GPU)
    is_cuda = property(lambda self: True)
    is_cpu = property(lambda self: False)

    @property
    def data(self) -> Tensor:
        return self.detach()

    @data.setter
    def data(self, value: OnGpu) -> None:
        self.inner = value.inner

    __torch_function__ = torch._C._disabled_torch_function_impl

    def __repr__(self, **_: Any) -> str:
        return f"OnGpu({tuple(self.shape)}, {self.dtype})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        strangers = [x for x in given if not isinstance(x, OnGpu) and x.dim()]
        if func in COPIES:
            if strangers and not _is_asynchronous(func, args, kwargs or {}):
                _wait("copy")
        elif strangers:
            raise RuntimeError(f"{func}: expected all tensors on one device, found cuda:0 and cpu")
        if func in READS or (func is aten.index.Tensor and _has_mask(args[1])):
            _wait(str(func))
        wrappers = {id(x.inner): x for x in given if isinstance(x, OnGpu)}
        out = func(*_unwrapped(args), **_unwrapped(kwargs or {}))
        return tree_map(lambda x: _wrapped(x, wrappers), out)


class _Backward(TorchDispatchMode):
    """Puts gradients that autograd makes from nothing (zeros for what went unused) on the device."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        from_nothing = not any(isinstance(x, Tensor) for x in tree_leaves((args, kwargs)))
        return OnGpu(out) if from_nothing and type(out) is Tensor else out


class _Boundary(TorchFunctionMode):
    """Handles copies between host and device, and tensors made on the device from nothing."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if kwargs.get("pin_memory"):
            del kwargs["pin_memory"]  # needs a driver
        name = getattr(func, "__name__", "")
        if func in (Tensor.backward, torch.autograd.grad):
            with _Backward():
                return func(*args, **kwargs)
        if name in ("to", "cpu", "cuda") and isinstance(args[0], Tensor):
            return _moved(name, args, kwargs)
        if name in ("tolist", "numpy", "__array__") and isinstance(args[0], OnGpu):
            if name != "tolist":
                raise TypeError("can't convert cuda:0 device type tensor to numpy")
            _wait("tolist")
            return args[0].inner.tolist()
        if kwargs.get("device") is not None:
            device = torch.device(kwargs.pop("device"))
            made = func(*_unwrapped(args), **kwargs, device=torch.device("cpu"))
            if device.type != "cuda":
                return made
            if name in ("tensor", "as_tensor", "new_tensor"):
                _wait(name)  # what the host holds is copied, and waited for
            return OnGpu(made)
        if name == "new_tensor" and isinstance(args[0], OnGpu):
            _wait(name)
            return OnGpu(func(*_unwrapped(args), **kwargs))
        return func(*args, **kwargs)


def _moved(name: str, args: Any, kwargs: dict[str, Any]) -> Tensor:
    """Carry out `Tensor.to`, `cpu` and `cuda`."""
    x, is_here = args[0], isinstance(args[0], OnGpu)
    if name != "to":
        device, dtype, non_blocking = torch.device("cpu" if name == "cpu" else GPU), None, False
    elif len(args) > 1 and isinstance(args[1], Tensor):
        device, dtype, non_blocking = args[1].device, args[1].dtype, False
    else:
        copy = kwargs.pop("copy", False)
        device, dtype, non_blocking, _ = torch._C._nn._parse_to(*args[1:], **kwargs)
        x = x.clone() if copy else x
    x = x if dtype is None else Tensor.to(x, dtype)
    if device is None or (device.type == "cuda") == is_here:
        return x
    if not non_blocking:
        _wait(f"to {device}")
    return x.inner.clone() if is_here else OnGpu(x.clone())


def _wrapped(value: Any, known: dict[int, OnGpu]) -> Any:
    """Wrap results; what an operation changed in place stays the object that it was."""
    if not isinstance(value, Tensor):
        return value
    return known[id(value)] if id(value) in known else OnGpu(value)


def _unwrapped(value: Any) -> Any:
    return tree_map(lambda x: x.inner if isinstance(x, OnGpu) else x, value)


def _is_asynchronous(func: Any, args: Any, kwargs: Any) -> bool:
    position = 2
    return bool(args[position] if len(args) > position else kwargs.get("non_blocking", False))


def _has_mask(indices: Any) -> bool:
    return any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in indices)


def _wait(what: str) -> None:
    """Note where in the project the host waits; in libraries it is their doing, and named so."""
    frames = [f for f in traceback.extract_stack() if Path(f.filename).is_relative_to(ROOT)]
    ours = [f for f in frames if ".venv" not in f.filename and "/tests/" not in f.filename]
    place = f"{Path(ours[-1].filename).relative_to(ROOT)}:{ours[-1].name}" if ours else "a test"
    _waits.append(f"{place} ({what})")


@contextlib.contextmanager
def gpu() -> Iterator[list[str]]:
    """Make `cuda:0` the stand-in within the block; yield the list of waits, which grows."""
    _waits.clear()
    with _Boundary():
        yield _waits


def put(module: nn.Module) -> nn.Module:
    """Move a module's parameters and buffers to the stand-in, tags of parameters included."""
    for part in module.modules():
        for name, p in part._parameters.items():
            if p is not None:
                moved = nn.Parameter(OnGpu(p.detach()), p.requires_grad)
                moved.__dict__ |= {k: v for k, v in p.__dict__.items() if k in ("no_decay", "hidden")}
                part._parameters[name] = moved
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = OnGpu(buffer)
    return module
