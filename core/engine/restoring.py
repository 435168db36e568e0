"""Use networks under training for another purpose, and give them back exactly as they were."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from core.engine.engine import Engine


@contextlib.contextmanager
def evaluating(
    engine: Engine, weights: list[Tensor] | None = None, *, training: bool = False
) -> Iterator[None]:
    """Disable gradients, in evaluation or `training` mode; restore buffers and mode (collective).

    weights: laid out like the masters (an average) to use instead of them; until the block ends this
    takes one more copy of this rank's masters.
    """
    module, was_training = engine.module, engine.module.training
    kept = [master.detach().clone() for master in engine.masters] if weights is not None else []
    try:
        module.train(training)
        with buffers_kept(module), torch.no_grad():
            _put(engine, weights or [])
            yield
    finally:
        module.train(was_training)
        with torch.no_grad():
            _put(engine, kept)


@contextlib.contextmanager
def dry_step(engine: Engine, see: Callable[[str, Tensor], None] | None = None) -> Iterator[None]:
    """Run forward and backward passes as in training and leave no trace of them (collective: all ranks).

    see: is shown this rank's gradients, by the name of the parameter, before ranks add them up.
    """
    shown = contextlib.nullcontext() if see is None else engine.observing(see)
    with shown, engine.discarding(), buffers_kept(engine.module):
        yield


@contextlib.contextmanager
def constant(engines: Sequence[Engine]) -> Iterator[None]:
    """Make networks fixed functions: another one's loss goes back through them, and leaves no gradient.

    Spans the whole turn of that other network, backward pass included, since activations may be recomputed
    again there.
    """
    try:
        for engine in engines:
            engine.set_constant(True)
        yield
    finally:
        for engine in engines:
            engine.set_constant(False)


@contextlib.contextmanager
def buffers_kept(module: nn.Module) -> Iterator[None]:
    """Restore the network's buffers at the end of the block."""
    kept = [(buffer, buffer.clone()) for buffer in module.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, before in kept:
                buffer.copy_(before)


def _put(engine: Engine, weights: list[Tensor]) -> None:
    if weights:
        engine.before_change()
    for target, source in zip(engine.masters, weights, strict=bool(weights)):
        target.detach().copy_(source)
    if weights:
        engine.refresh()
