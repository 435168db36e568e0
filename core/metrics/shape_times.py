"""Time per sample of each shape, forward and backward, measured over the first steps of a run."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Collection

import torch

from core.batch import Batch

Shape = tuple[int, ...]
EACH = 3  # micro-batches of every shape that count, after its first one
MOST_STEPS = 100  # after so many steps, rarer shapes are reported with what there is


class ShapeTimes:
    """Hands `report` the median seconds per sample of every shape, once, when enough was seen.

    shapes: of a sample.  `begin` stands before each micro-batch, `end` after a step's last one.
    The first micro-batch of a shape, which is slow, is left out. On CUDA the device's own events are read,
    and nothing is waited for before the report.
    """

    def __init__(
        self,
        shapes: Collection[Shape],
        device: torch.device,
        report: Callable[[dict[Shape, float]], None],
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._report, self._clock = report, clock
        self._on_cuda = device.type == "cuda"
        self._seen: dict[Shape, list[tuple[int, object, object]]] = {shape: [] for shape in shapes}
        self._under_way: tuple[Shape, int, object] | None = None
        self._steps, self._reported = 0, False

    def begin(self, batch: Batch) -> None:
        """Note that a micro-batch begins; the one before it, if any, has ended."""
        if self._reported:
            return
        self._close()
        shape = tuple(batch.x.shape[1:])
        if len(self._seen.get(shape, ())) <= EACH:
            self._under_way = (shape, len(batch), self._now())

    def end(self) -> None:
        """Note that the step's last micro-batch has ended; report if enough was seen."""
        if self._reported:
            return
        self._close()
        self._steps += 1
        if self._steps >= MOST_STEPS or all(len(seen) > EACH for seen in self._seen.values()):
            self.finish()

    def finish(self) -> None:
        """Report the times so far, unless that was done."""
        if not self._reported:
            self._reported = True
            self._report({shape: self._median(seen[1:]) for shape, seen in self._seen.items() if seen[1:]})

    def _close(self) -> None:
        if self._under_way is not None:
            shape, samples, began = self._under_way
            self._seen.setdefault(shape, []).append((samples, began, self._now()))
            self._under_way = None

    def _now(self) -> object:
        if not self._on_cuda:
            return self._clock()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def _median(self, seen: list[tuple[int, object, object]]) -> float:
        return statistics.median(self._seconds(began, ended) / samples for samples, began, ended in seen)

    def _seconds(self, began: object, ended: object) -> float:
        if isinstance(began, torch.cuda.Event) and isinstance(ended, torch.cuda.Event):
            ended.synchronize()
            return began.elapsed_time(ended) / 1000
        assert isinstance(began, float)
        assert isinstance(ended, float)
        return ended - began
