"""torch.compile block by block: every shape is compiled before the first step, and none after it.

Equal blocks share compiled code, so a network costs one block's compilation per shape. A shape that is
first met in the middle of a run would stop one rank for a minute while the others wait in a collective.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn

from core.distributed import ranks
from core.engine.engine import Engine
from core.engine.restoring import dry_step, evaluating
from core.progress import Progress


def compile_blocks(blocks: Iterable[nn.Module], backend: str = "inductor") -> None:
    """Have each block's forward compiled for every shape it meets; backend: torch.compile's.

    The hooks by which an engine gathers a block's weights stay outside of the graph.
    """
    for block in blocks:
        block.forward = torch.compile(block.forward, dynamic=False, backend=backend)


def warm_up(
    engine: Engine, examples: Sequence[tuple[Any, ...]], validated: Sequence[tuple[Any, ...]] = ()
) -> int:
    """Run forward and backward on each example as a step does, which compiles its shape (collective).

    validated: run forward alone, in evaluation mode, which is compiled on its own.
    Leaves weights and gradients as they are. Returns the number of graphs that this process has compiled.
    """
    import torch._dynamo

    limit, count = torch._dynamo.config.recompile_limit, len(examples) + len(validated)
    torch._dynamo.config.recompile_limit = max(limit, 8 * count)  # beyond it blocks run uncompiled
    torch._dynamo.config.accumulated_recompile_limit = max(256, 8 * count)
    with Progress(count, "compile", unit="shapes") as progress:
        with dry_step(engine) if examples else contextlib.nullcontext():
            for example in examples:
                engine.backward(engine(*example).square().mean())
                progress.advance()
        with evaluating(engine):
            for example in validated:
                engine(*example)
                progress.advance()
    ranks.barrier()
    return compiled_graphs()


def compiled_graphs() -> int:
    """Return how many graphs torch.compile has made in this process."""
    import torch._dynamo.utils

    return torch._dynamo.utils.counters["stats"]["unique_graphs"]
