"""Send batches to a GPU ahead of their step, on a stream of their own, from the thread that reads them.

The copy of a step's batches then runs beside the products of the step before, and not between two steps.
Pixels wait there as bytes, and become numbers in their step.
Memory of a copy belongs to the stream that made it: `arrived` has the step's stream wait for it, and notes
that the step uses it, so that it is not given to the next copy too early.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from core.batch import Batch
from data.loading.ahead import read_ahead


class Upload:
    """Sends batches to one GPU."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._stream = device, torch.cuda.Stream(device)

    def send(self, batches: list[Batch]) -> list[Batch]:
        """Return the batches there, under way; from pinned memory it takes no time of this thread."""
        with torch.cuda.stream(self._stream):
            sent = [batch.sent(self._device) for batch in batches]
            event = self._stream.record_event()
        return [replace(batch, arrived=Arrival(event, batch)) for batch in sent]


class Arrival:
    """Waits, on the device, for one batch; called by the thread that computes with it, every time it does."""

    def __init__(self, event: torch.cuda.Event, batch: Batch) -> None:
        self._event, self._tensors = event, tensors_of(batch)

    def __call__(self) -> None:
        stream = torch.cuda.current_stream(self._tensors[0].device)
        stream.wait_event(self._event)
        for tensor in self._tensors:
            tensor.record_stream(stream)


def tensors_of(value: Any) -> list[Tensor]:
    """Return all tensors of a batch, of its conditions too."""
    if isinstance(value, Tensor):
        return [value]
    if not is_dataclass(value):
        return []
    return [tensor for each in fields(value) for tensor in tensors_of(getattr(value, each.name))]


def steps_ahead(
    load: Callable[[int], list[Batch]], device: torch.device, depth: int
) -> Callable[[int], Iterator[list[Batch]]]:
    """Return what yields the batches of steps from a given one on, `depth` of them read ahead, and sent ahead
    to a GPU.
    """
    return partial(read_ahead, ahead(load, device) if device.type == "cuda" else load, depth=depth)


def ahead(load: Callable[[int], list[Batch]], device: torch.device) -> Callable[[int], list[Batch]]:
    """Return what loads a step's batches and sends them."""
    upload = Upload(device)
    return lambda step_index: upload.send(load(step_index))
