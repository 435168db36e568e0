"""Compile the blocks of a job's networks, once for each shape that its samples have.

Short batches are filled up by samples that are made twice (`Job.make`), so that no other number of samples is
ever compiled. Where the compiler fails the networks run as they are.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from functools import wraps
from typing import Any, Literal

import torch
from torch import nn

from core.engine.compiling import lacks_compiler
from core.errors import UserError
from core.progress import say
from models.denoisers.network import Denoiser

Asked = bool | Literal["auto"]
BACKEND: str | Callable[..., Any] = "inductor"  # as torch.compile takes it


def settled(asked: Asked, device_type: str, *, shares_tokens: bool) -> bool:
    """Return whether to compile on a kind of device; a line says why not where that was to be expected.

    shares_tokens: whether ranks compute a network together, whose exchanges stay outside of graphs.
    """
    if shares_tokens:
        if asked is True:
            raise UserError("compile", "true", "auto or false with sequence_parallel")
        return False
    if asked is False or (asked == "auto" and device_type != "cuda"):
        return False
    if lacking := lacks_compiler(device_type):
        say(f"networks are not compiled, since {lacking}")
    return not lacking


def compile_networks(models: Sequence[Denoiser], forms: int) -> None:
    """Have the blocks of networks compiled when they are first called with a shape.  forms: of samples."""
    import torch._dynamo

    # Beyond the limit blocks would run uncompiled. Guidance makes up to a few numbers of inputs of a form.
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 8 * forms)
    torch._dynamo.config.accumulated_recompile_limit = max(256, 8 * forms)
    failed: list[str] = []
    for model in models:
        for block in model.blocks:
            _compile_block(block, failed)


def _compile_block(block: nn.Module, failed: list[str]) -> None:
    """Have a block compiled.  failed: why the compiler did; from there on all blocks run as they are."""
    plain = block.forward
    compiled = torch.compile(plain, dynamic=False, backend=BACKEND)

    @wraps(plain)
    def forward(*inputs: Any, **named: Any) -> Any:
        if not failed:
            try:
                return compiled(*inputs, **named)
            except torch._dynamo.exc.TorchDynamoException as error:
                failed.append(" ".join(str(error).partition("\n\n")[0].split()))  # before the advice
                say(f"networks are not compiled from here on, since the compiler failed: {failed[0]}")
        return plain(*inputs, **named)

    block.forward = forward


@contextlib.contextmanager
def uncompiled() -> Iterator[None]:
    """Run compiled networks as they are within the block, for samples of another number than usual."""
    with torch.compiler.set_stance("force_eager"):
        yield
