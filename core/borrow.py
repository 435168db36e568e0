"""Use a network under training for something else, and give it back exactly as it was."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor

from core.engine import Engine


@contextlib.contextmanager
def borrowed(engine: Engine, flats: list[Tensor] | None = None, *, training: bool = False) -> Iterator[None]:
    """Without gradients, in evaluation or `training` mode; buffers and mode come back (collective).

    flats: weights laid out like the masters (an average) to use instead of them; it takes one more copy of
    this rank's masters meanwhile.
    """
    module, was_training = engine.module, engine.module.training
    buffers = [(buffer, buffer.clone()) for buffer in module.buffers()]
    masters = [flat.detach().clone() for flat in engine.flats] if flats is not None else []
    try:
        module.train(training)
        with torch.no_grad():
            _put(engine, flats or [])
            yield
    finally:
        module.train(was_training)
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)
            _put(engine, masters)


def _put(engine: Engine, flats: list[Tensor]) -> None:
    for target, source in zip(engine.flats, flats, strict=bool(flats)):
        target.detach().copy_(source)
    if flats:
        engine.refresh()
