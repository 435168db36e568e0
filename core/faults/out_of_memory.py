"""Out of memory: report in one line what was being computed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from core.batch import Batch
from core.errors import WorkError


class OutOfMemory(WorkError):
    """Memory ran out; the message says in which computation, with torch's own reason."""


@contextlib.contextmanager
def naming_what_does_not_fit(where: str, rank: int, batch: Batch | None = None) -> Iterator[None]:
    """Turn torch's error into OutOfMemory with `where`, the rank, the micro-batch and its bucket."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise out_of_memory(error, where, rank, batch) from error


def out_of_memory(
    error: torch.OutOfMemoryError, where: str, rank: int, batch: Batch | None = None
) -> OutOfMemory:
    """Return the exception to raise for torch's error."""
    reason = str(error).partition("\n")[0]
    return OutOfMemory(f"out of memory on rank {rank} in {where}{_describe(batch)}: {reason}")


def _describe(batch: Batch | None) -> str:
    if batch is None:
        return ""
    shape = "x".join(map(str, batch.x.shape[1:]))
    advice = "a smaller engine.micro_batch, or engine.activation_checkpointing, takes less"
    return f", {len(batch)} samples of {batch.bucket or 'shape'} {shape} ({advice})"
