"""torch.compile block by block: every shape is compiled before the first step, and none after it.

Equal blocks share compiled code, so a network costs one block's compilation per shape. A shape that is
first met in the middle of a run would stop one rank for a minute while the others wait in a collective.
Where an engine's hooks sit at every layer, the functions between layers are compiled in place of blocks.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import sysconfig
from collections.abc import Iterable, Sequence
from pathlib import Path
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
    compilations()  # from here on backward passes are counted
    for block in blocks:
        block.forward = torch.compile(block.forward, dynamic=False, backend=backend)


def compile_functions(network: nn.Module, backend: str = "inductor") -> None:
    """Have the functions without weights compiled, each as one graph for every shape it meets.

    A module names its own in `functions`: attributes that hold a function of tensors alone. No hook of an
    engine runs within one, so its graph has no breaks; where it would, the first call fails.
    """
    compilations()
    compiled: dict[Any, Any] = {}
    for module in network.modules():
        for name in getattr(module, "functions", ()):
            plain = getattr(module, name)
            if plain not in compiled:
                compiled[plain] = torch.compile(plain, dynamic=False, fullgraph=True, backend=backend)
            setattr(module, name, compiled[plain])


def lacks_compiler(device_type: str) -> str:
    """Return what torch.compile would need and is not here, or ''. Triton is looked for, not imported."""
    if device_type == "cpu":
        return "" if _on_path("CXX", "c++", "g++", "clang++") else "no C++ compiler is here"
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed"
    named = os.environ.get("CC")  # Triton calls it as it is, and finds two others by name
    if not any(map(shutil.which, ("gcc", "clang") if named is None else (named,))):
        return "no C compiler is here" if named is None else f"CC={named} is no C compiler"
    return "" if (_python_headers() / "Python.h").is_file() else "Python's headers are not here"


def _python_headers() -> Path:
    """Return where Triton looks for Python.h, which what starts its kernels is compiled with."""
    scheme = sysconfig.get_default_scheme()
    return Path(sysconfig.get_path("include", "posix_prefix" if scheme == "posix_local" else scheme))


def _on_path(variable: str, *usual: str) -> bool:
    return any(
        shutil.which(name.split()[0]) for name in (os.environ.get(variable, "").strip(), *usual) if name
    )


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
    """Return how many graphs torch.compile has made in this process, each for a forward pass."""
    import torch._dynamo.utils

    return torch._dynamo.utils.counters["stats"]["unique_graphs"]


def compilations() -> int:
    """Return `compiled_graphs`, and with them the backward passes compiled since the first call of this.

    A graph's backward pass is compiled when it is first taken, unless a cache on disk has it.
    """
    from torch._dynamo.callback import callback_handler

    if _note_backward not in callback_handler.start_callbacks:  # torch._dynamo.reset() removes it
        callback_handler.register_start_callback(_note_backward)
    return compiled_graphs() + len(_backwards)


_backwards: list[str] = []


def _note_backward(compilation: Any) -> None:
    if compilation.callback_trigger.name == "LAZY_BACKWARD":
        _backwards.append(compilation.compile_id)
