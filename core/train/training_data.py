"""Training data as the trainer sees it: batches, and their known properties."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from core.batch import Batch
from core.metrics.shape_times import ShapeTimes


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """The training data of a run, on this rank.

    batches: the micro-batches of step `step_index` and of each that follows.  largest: micro-batches as large
    as any that will come, tried before the first step; [] where all are alike.  validation: samples to
    validate on, the same at every call.  work_of: tokens of a micro-batch, and operations of its forward and
    pass, for tokens/s and TFLOP/s.  shape_times: called when micro-batches begin and end.
    samples: of an epoch; 0 where that is not known.
    """

    batches: Callable[[int], Iterator[list[Batch]]]
    largest: Callable[[], list[Batch]] = list
    validation: Callable[[], Iterable[Batch]] | None = None
    work_of: Callable[[Batch], tuple[int, float]] | None = None
    shape_times: ShapeTimes | None = None
    samples: int = 0

    def sizes(self, micro_batches: list[Batch], ranks: int) -> dict[str, Any]:
        """Return how much work a step is on all `ranks` that have samples of their own."""
        sizes: dict[str, Any] = {}
        if self.work_of:
            sizes["tokens"] = sizes["flops"] = 0
            for batch in micro_batches:
                tokens, flops = self.work_of(batch)
                sizes["tokens"] += tokens * ranks
                sizes["flops"] += flops * ranks
        return sizes
