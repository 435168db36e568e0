"""Build a network without its weights, and remember how each would have been drawn.

On torch's meta device tensors have shapes and no memory. What is done to a parameter there is written down,
with the place of the random generator at each draw, and done later: to any range of the parameter, in any
order, on any rank, with the bits that a network built as usual has. Buffers, which are small, are made whole
at the end of building (`replaying.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from core.first_values.place import Place
from core.first_values.replaying import Done, Tape, address

aten = torch.ops.aten
M = TypeVar("M", bound=nn.Module)

# Operations on one tensor in place, number by number; the first line begins anew.
_BEGINNINGS = {aten.uniform_.default, aten.normal_.default, aten.zero_.default, aten.fill_.Scalar}
_BY_NUMBER = _BEGINNINGS | {aten.mul_.Tensor, aten.div_.Tensor, aten.add_.Tensor, aten.sub_.Tensor}
_BY_NUMBER |= {aten.erfinv_.default, aten.clamp_.default}
# Functions that make a tensor of a size.
_MADE = {aten.ones.default, aten.zeros.default, aten.full.default, aten.randn.default, aten.rand.default}


class First(Protocol):
    """The first values of a parameter, which carries this as its attribute `first` while it has no memory."""

    def __call__(self, start: int, stop: int) -> Tensor:
        """Return elements [start, stop) of the flattened parameter, 1-D on the CPU, in fp32."""
        ...


def first_of(network: nn.Module) -> dict[str, First]:
    """Return what gives the first values of each parameter; {} for a network that has its weights."""
    return {n: p.first for n, p in network.named_parameters() if p.is_meta}  # type: ignore[attr-defined]


def without_weights(build: Callable[[], M]) -> M:
    """Return the network that `build` makes, its parameters on the meta device, each with its `first`.

    Buffers have their values, on the CPU. The global generator moves on as if all had been drawn. A network
    whose weights or buffers are made in a way that is not known here is built as usual.
    """
    state = torch.get_rng_state()
    recorder, asked = _Recorder(), _Asked()
    with torch.device("meta"), asked, recorder:
        network = build()
    firsts = [recorder.first(parameter) for parameter in network.parameters()]
    if all(firsts) and not (asked.count or recorder.is_lost) and recorder.make_buffers(network):
        for parameter, first in zip(network.parameters(), firsts, strict=True):
            parameter.first = first  # type: ignore[attr-defined]
        recorder.place.arrive()
        return network
    torch.set_rng_state(state)
    return build()


@dataclass(frozen=True)
class _Operation:
    """One operation on a parameter.  place: of the generator when it begins; None where it draws nothing."""

    function: Any
    arguments: tuple[Any, ...]
    options: Mapping[str, Any]
    place: Place | None

    @property
    def begins(self) -> bool:
        """Whether every value comes from this operation, so that earlier ones have no effect."""
        return self.function in _BEGINNINGS | _MADE

    @property
    def takes_ranges(self) -> bool:
        """Whether a range of the values can be drawn alone; normal draws depend on their neighbours."""
        return self.function in _BY_NUMBER and self.function is not aten.normal_.default

    def run(self, values: Tensor, first: int = 0) -> Tensor:
        """Do it to `values`, which begin with number `first` of the parameter."""
        place = self.place.later(first) if self.place is not None else None
        if place is not None:
            place.arrive()
        if self.function in _MADE:
            return self.function(*self.arguments, **{**self.options, "device": "cpu"})
        values = self.function(values, *self.arguments, **self.options)
        if place is not None and _draws_words(self.function, values):
            place.later(values.numel()).arrived()
        return values


class _Drawn:
    """The first values of a parameter, by the operations that make them."""

    def __init__(self, shape: torch.Size, dtype: torch.dtype, operations: list[_Operation]) -> None:
        begin = max(place for place, operation in enumerate(operations) if operation.begins)
        self._shape, self._dtype, self._operations = shape, dtype, operations[begin:]

    def __call__(self, start: int, stop: int) -> Tensor:
        kept = torch.get_rng_state()
        try:
            with torch.no_grad():
                return self._made(start, stop)
        finally:
            torch.set_rng_state(kept)

    def _made(self, start: int, stop: int) -> Tensor:
        if all(operation.takes_ranges for operation in self._operations):
            part = torch.empty(stop - start, dtype=self._dtype)
            for operation in self._operations:
                part = operation.run(part, start)
            return part.float()
        whole = torch.empty(self._shape, dtype=self._dtype)
        for operation in self._operations:
            whole = operation.run(whole)
        return whole.flatten()[start:stop].float().clone()


class _Asked(TorchFunctionMode):
    """Keep the values of tensors made of Python's numbers, which torch would not look at on the meta device.

    count: how often code asked whether a tensor is there, where some of torch draws nothing.
    """

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func == Tensor.is_meta.__get__  # type: ignore[attr-defined]
        kwargs = kwargs or {}
        if func in (torch.tensor, torch.as_tensor) and kwargs.get("device") is None:
            return func(*args, **{**kwargs, "device": "cpu"}).to("meta")
        return func(*args, **kwargs)


class _Recorder(TorchDispatchMode):
    """Write down what is done to tensors on the meta device, by the memory that they would have.

    place: of the generator now.  is_lost: whether something drew in a way that is not known.
    """

    def __init__(self) -> None:
        super().__init__()
        self.place, self.is_lost, self._tape = Place.now(), False, Tape()
        self._done: dict[int, list[_Operation] | None] = {}  # None: in a way that is not known

    def first(self, parameter: Tensor) -> First | None:
        """Return what gives a parameter's first values; None where that is not known."""
        is_plain = parameter.is_meta and parameter.is_floating_point() and _is_whole(parameter)
        done = self._done.get(address(parameter)) if is_plain else None
        if not done or not any(operation.begins for operation in done):
            return None
        return _Drawn(parameter.shape, parameter.dtype, done)

    def make_buffers(self, network: nn.Module) -> bool:
        """Give the network its buffers, with values; return False where these are not known."""
        homes = [(m, name) for m in network.modules() for name, b in m._buffers.items() if b is not None]
        homes = [(module, name) for module, name in homes if getattr(module, name).is_meta]
        values = self._tape.values([getattr(module, name) for module, name in homes])
        if values is None:
            return False
        same: dict[int, Tensor] = {}  # a buffer that several modules have stays one
        for (module, name), value in zip(homes, values, strict=True):
            module._buffers[name] = same.setdefault(id(module._buffers[name]), value)
        return True

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        begin = self.place.arrive if _draws(func) else lambda: None
        out = self._do(func, args, kwargs or {})
        self._tape.note(
            Done(func, args, kwargs or {}, out, begin)
        )  # and keep tensors: none has another's address
        return out

    def _do(self, func: Any, args: Any, kwargs: Any) -> Any:
        target = args[0] if args and isinstance(args[0], Tensor) else None
        if target is not None and target.is_meta and func in _BY_NUMBER:
            others = [v for v in (*args[1:], *kwargs.values()) if isinstance(v, (Tensor, torch.Generator))]
            if others or not _is_whole(target):
                self._unknown(target)
                self.is_lost |= _draws(func)
                return func(*args, **kwargs) if others else target
            self._note(target, _Operation(func, args[1:], kwargs, self._draw(func, target)))
            return target
        is_here = torch.device(kwargs.get("device") or "cpu").type == "cpu"
        if _draws(func) and (func not in _MADE or is_here):
            self.place.arrive()  # so that what an operation that is not known draws is what it should be
            out = func(*args, **kwargs)
            self.place = Place.now()
            self.is_lost |= any(leaf.is_meta for leaf in tree_leaves(out) if isinstance(leaf, Tensor))
        else:
            out = func(*args, **kwargs)
        if isinstance(out, Tensor) and out.is_meta:
            if func in _MADE:
                self._note(out, _Operation(func, args, kwargs, self._draw(func, out)))
            elif func._schema.is_mutable or (target is not None and address(out) != address(target)):
                self._unknown(out)
        return out

    def _draw(self, function: Any, tensor: Tensor) -> Place | None:
        """Return the place of the generator before what `function` draws, and move it on."""
        if not _draws(function):
            return None
        before = self.place
        if _draws_words(function, tensor):
            self.place = before.later(tensor.numel())
        else:
            before.arrive()
            self.place = before = Place.now()
            drawn = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu")
            drawn.normal_() if function in (aten.normal_.default, aten.randn.default) else drawn.uniform_()
            self.place = Place.now()
        return before

    def _note(self, tensor: Tensor, operation: _Operation) -> None:
        done = self._done.setdefault(address(tensor), [])
        if done is not None:
            done.append(operation)

    def _unknown(self, tensor: Tensor) -> None:
        self._done[address(tensor)] = None


def _draws(function: Any) -> bool:
    return torch.Tag.nondeterministic_seeded in function.tags


def _draws_words(function: Any, tensor: Tensor) -> bool:
    """Return whether an operation draws one word of the generator a number."""
    return function is aten.uniform_.default and tensor.dtype == torch.float32


def _is_whole(tensor: Tensor) -> bool:
    """Return whether a tensor is all of its memory, in order."""
    size = math.prod(tensor.shape) * tensor.element_size()
    return tensor.is_contiguous() and tensor.untyped_storage().nbytes() == size
