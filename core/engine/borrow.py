"""Use a network under training for something else, and give it back exactly as it was."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from core.engine.engine import Engine


@contextlib.contextmanager
def borrowed(engine: Engine, flats: list[Tensor] | None = None, *, training: bool = False) -> Iterator[None]:
    """Without gradients, in evaluation or `training` mode; buffers and mode come back (collective).

    flats: weights laid out like the masters (an average) to use instead of them; it takes one more copy of
    this rank's masters meanwhile.
    """
    module, was_training = engine.module, engine.module.training
    masters = [flat.detach().clone() for flat in engine.flats] if flats is not None else []
    try:
        module.train(training)
        with _buffers_kept(module), torch.no_grad():
            _put(engine, flats or [])
            yield
    finally:
        module.train(was_training)
        with torch.no_grad():
            _put(engine, masters)


@contextlib.contextmanager
def discarded(engine: Engine) -> Iterator[None]:
    """Forward and backward passes as in training, of which nothing remains (collective: all ranks).

    Gradients are computed and reduced as ever, but are NaN from where they reach a parameter. So the step
    that ends the block is one that the engine skips, on all ranks alike, and a skipped step leaves nothing
    behind at any ZeRO stage: no knowledge is needed of where each of them keeps gradients.
    """
    trained = [p for p in engine.module.parameters() if p.requires_grad]
    handles = [p.register_hook(lambda gradient: gradient * float("nan")) for p in trained]
    try:
        with _buffers_kept(engine.module):
            yield
            if engine.step(0.0, 0.0).applied:
                raise RuntimeError("a step that was to be discarded was applied")
    finally:
        for handle in handles:
            handle.remove()


@contextlib.contextmanager
def _buffers_kept(module: nn.Module) -> Iterator[None]:
    kept = [(buffer, buffer.clone()) for buffer in module.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, before in kept:
                buffer.copy_(before)


def _put(engine: Engine, flats: list[Tensor]) -> None:
    for target, source in zip(engine.flats, flats, strict=bool(flats)):
        target.detach().copy_(source)
    if flats:
        engine.refresh()
