"""Host memory for copies of the state: one buffer a kind, pinned where the state lies on a GPU.

torch's own pinned memory comes in powers of two, so that 9 GiB take 16, and each of thousands of ranges its
own. Here a kind of state (weights, a moment, an average) is one buffer of its own size, registered with CUDA.

From a GPU the copy runs on a stream of its own under the next step, whose passes only read the state. What
changes it waits, on the device, until the copy is done (`hold`); what reads the copy waits on the host
(`wait`).
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from core.progress import say
from core.progress import size as in_bytes

ALIGNED = 64  # bytes, of where a range begins


def nothing() -> None:
    """Wait for nothing."""


class HostMemory:
    """Buffers that are kept, since fresh memory costs page faults.

    A copy is valid until the next one: what is written from it must be finished by then.
    """

    def __init__(self) -> None:
        self._kept: dict[str, tuple[Any, dict[str, Tensor]]] = {}
        self._releases: dict[str, weakref.finalize[..., Any]] = {}  # of what is registered, by kind
        self._stream: torch.cuda.Stream | None = None
        self._event: torch.cuda.Event | None = None

    def copy(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Copy tensors of keys KIND/...; from a GPU it has only begun when this returns."""
        found: dict[str, Tensor] = {}
        by_kind: dict[str, dict[str, Tensor]] = {}
        for key, source in tensors.items():
            by_kind.setdefault(key.partition("/")[0], {})[key] = source
        for kind, sources in by_kind.items():
            found |= self._places(kind, sources)
        device = next((source.device for source in tensors.values() if source.is_cuda), None)
        if device is None:
            for key, source in tensors.items():
                found[key].copy_(source)
            return found
        self._stream = self._stream or torch.cuda.Stream(device)
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            for key, source in tensors.items():
                found[key].copy_(source, non_blocking=True)
        self._event = self._stream.record_event()
        return found

    def hold(self) -> None:
        """Have what this thread's stream does next wait, on the device, until the copy is whole."""
        if self._event is not None:
            torch.cuda.current_stream().wait_event(self._event)

    def wait(self) -> None:
        """Wait until the copy is whole."""
        if self._event is not None:
            self._event.synchronize()

    def _places(self, kind: str, sources: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return where the ranges of a kind go, in one buffer."""
        layout = [(key, source.shape, source.dtype) for key, source in sources.items()]
        if kind in self._kept and self._kept[kind][0] == layout:
            return self._kept[kind][1]
        starts, size = [], 0
        for source in sources.values():
            starts.append(size)
            size += -(-source.numel() * source.element_size() // ALIGNED) * ALIGNED
        self._kept.pop(kind, None)  # first, so that both are never there
        if release := self._releases.pop(kind, None):
            release()
        device = next((source.device for source in sources.values() if source.is_cuda), None)
        buffer = self._allocate(kind, size, device)
        places = {}
        for (key, source), start in zip(sources.items(), starts, strict=True):
            part = buffer[start : start + source.numel() * source.element_size()]
            places[key] = part.view(source.dtype).view(source.shape)
        self._kept[kind] = layout, places
        return places

    def _allocate(self, kind: str, size: int, device: torch.device | None) -> Tensor:
        """Return (size,) uint8 of the host, registered with CUDA as it is for copies from a GPU."""
        buffer = torch.empty(size, dtype=torch.uint8)
        if device is not None and size:
            status = int(torch.cuda.cudart().cudaHostRegister(buffer.data_ptr(), size, 0))
            if status:
                reason = f"{in_bytes(size)} of the host could not be pinned (CUDA error {status})"
                say(f"warning: {reason}; saves take longer")
                _forget_error(device)
            else:
                self._releases[kind] = weakref.finalize(self, _unregister, buffer)
        return buffer


def _forget_error(device: torch.device) -> None:
    """Have CUDA forget the error of the last call, which the next kernel would raise as its own."""
    with contextlib.suppress(torch.AcceleratorError):
        torch.zeros((), device=device)


def _unregister(buffer: Tensor) -> None:
    """Give memory back unpinned; the buffer lives until then."""
    torch.cuda.cudart().cudaHostUnregister(buffer.data_ptr())
