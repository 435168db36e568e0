"""Use networks under training for another purpose, and give them back exactly as they were."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

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
def dry_step(engine: Engine) -> Iterator[None]:
    """Run forward and backward passes as in training and leave no trace of them (collective: all ranks).

    Gradients are computed and reduced as always, but are NaN from where they reach a parameter. So the engine
    skips the step that ends the block, on all ranks alike, and a skipped step leaves nothing behind at any
    ZeRO stage: it does not matter where each of them keeps gradients.
    """
    trained = [p for p in engine.module.parameters() if p.requires_grad]
    handles = [p.register_hook(lambda gradient: gradient * float("nan")) for p in trained]
    try:
        with buffers_kept(engine.module):
            yield
            if engine.step(0.0, 0.0).applied:
                raise RuntimeError("a step that was to be discarded was applied")
    finally:
        for handle in handles:
            handle.remove()


@contextlib.contextmanager
def constant(engines: Sequence[Engine]) -> Iterator[None]:
    """Make networks fixed functions: another one's loss goes back through them, and leaves no gradient.

    Spans the whole turn of that other network, backward pass included, since activations may be recomputed
    again there.
    """
    parameters = [p for engine in engines for p in engine.module.parameters() if p.requires_grad]
    try:
        for engine in engines:
            engine.is_constant = True
        for p in parameters:
            p.requires_grad_(False)
        yield
    finally:
        for p in parameters:
            p.requires_grad_(True)
        for engine in engines:
            engine.is_constant = False


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
    for target, source in zip(engine.masters, weights, strict=bool(weights)):
        target.detach().copy_(source)
    if weights:
        engine.refresh()
