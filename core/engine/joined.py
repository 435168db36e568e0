"""A network that is trained by another one's loss, in the backward pass of that one.

Its engine reduces and shards as always: the backward pass of the other network only hands it the gradient of
its output, and takes that of its inputs back.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from core.engine.engine import Engine


def joined(engine: Engine, *inputs: Any) -> Tensor:
    """Call a network within the loss of another one's turn; its one output is a tensor.

    Once that other engine goes backward, the gradient of this network's parameters is in `engine`, and that
    of the inputs that need one goes on. Each call is a backward pass of its own. For a constant network, and
    without gradients, it is a plain call. The result has no second derivative, and no tangent.
    """
    if engine.is_constant or not torch.is_grad_enabled():
        return engine(*inputs)
    # Where no input needs a gradient, the parameters still do.
    needed = torch.zeros((), device=engine.world.device, requires_grad=True)
    return _Joined.apply(engine, needed, *inputs)


class _Joined(torch.autograd.Function):
    """The call as one operation, whose backward is a backward pass of the engine."""

    @staticmethod
    def forward(ctx: Any, engine: Engine, needed: Tensor, *inputs: Any) -> Tensor:
        given = [_leaf(value) for value in inputs]
        with torch.enable_grad():
            output = engine(*given)
        ctx.engine, ctx.given, ctx.output = engine, given, output
        return output.detach()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        # An engine that averages over ranks multiplies by their number before, and the other one has already.
        with torch.enable_grad():
            ctx.engine.backward((ctx.output * gradient).sum() / ctx.engine.factor)
        return None, None, *(value.grad if isinstance(value, Tensor) else None for value in ctx.given)


def _leaf(value: Any) -> Any:
    """Return a tensor without its history, which needs a gradient where it did."""
    return value.detach().requires_grad_(value.requires_grad) if isinstance(value, Tensor) else value
