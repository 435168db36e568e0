"""torch.compile block by block: every shape is compiled before the first step, and none after it.

Equal blocks share compiled code, so a network costs one block's compilation per shape. A shape that is
first met in the middle of a run would stop one rank for a minute while the others wait in a collective.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from torch import nn

from core.distributed import ranks
from core.progress import Progress


def compile_blocks(blocks: Iterable[nn.Module], backend: str = "inductor") -> None:
    """Have each block compile itself for every shape it meets; backend: torch.compile's."""
    for block in blocks:
        block.compile(dynamic=False, backend=backend)


def warm_up(
    network: nn.Module, examples: Sequence[tuple[Any, ...]], validated: Sequence[tuple[Any, ...]] = ()
) -> int:
    """Run forward and backward on each example, which compiles its shape (collective: all ranks).

    validated: run forward alone, in evaluation mode, which is compiled on its own.
    Leaves weights and gradients as they are. Returns the number of graphs that this process has compiled.
    """
    import torch._dynamo

    limit, count = torch._dynamo.config.recompile_limit, len(examples) + len(validated)
    torch._dynamo.config.recompile_limit = max(limit, 8 * count)  # beyond it blocks run uncompiled
    torch._dynamo.config.accumulated_recompile_limit = max(256, 8 * count)
    parameters = [p for p in network.parameters() if p.requires_grad]
    with Progress(count, "compile", unit="shapes") as progress:
        for example in examples:
            output = network(*example)
            torch.autograd.grad(output.square().mean(), parameters, allow_unused=True)
            progress.advance()
        training = network.training
        network.eval()
        with torch.no_grad():
            for example in validated:
                network(*example)
                progress.advance()
        network.train(training)
    ranks.barrier()
    return compiled_graphs()


def compiled_graphs() -> int:
    """Return how many graphs torch.compile has made in this process."""
    import torch._dynamo.utils

    return torch._dynamo.utils.counters["stats"]["unique_graphs"]
