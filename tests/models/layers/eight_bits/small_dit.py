"""A small network whose blocks the tests turn to 8 bits, and what is looked at of it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from core.batch import Condition
from core.engine.activation_checkpointing import checkpoint_blocks
from core.engine.compiling import compiled_graphs
from core.engine.config import EngineConfig
from models.denoisers.dit import DiT, DiTConfig
from models.layers.eight_bits.kinds import EightBits, use_eight_bits

CPU = torch.device("cpu")


def results(linear: nn.Module, x: Tensor, gradient: Tensor) -> list[Tensor]:
    out = linear(x)
    return [out, *torch.autograd.grad(out, [x, *linear.parameters()], gradient)]


def network() -> DiT:
    """Return a small network without a zero among its weights, in 16 bits."""
    torch.manual_seed(0)
    model = DiT(DiTConfig(width=32, depth=2, heads=2, num_classes=3))
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.1)
    return model.bfloat16()


def inputs() -> tuple[Tensor, Tensor, Condition]:
    x = torch.randn(2, 4, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    return x, torch.tensor([10.0, 900.0]), Condition()


def loss_and_gradients(model: DiT) -> list[Tensor]:
    loss = model(*inputs()).float().square().mean()
    loss.backward()
    return [loss.detach(), *(p.grad for p in model.parameters() if p.grad is not None)]


def checkpointed_by(mode: Any, kind: EightBits) -> list[Tensor]:
    """Return loss and gradients of the network in 8 bits of a kind, its blocks checkpointed by `mode`."""
    model = network()
    use_eight_bits(kind, model.blocks, CPU)
    checkpoint_blocks(model.blocks, EngineConfig(activation_checkpointing=mode))
    return loss_and_gradients(model)


@contextlib.contextmanager
def one_graph() -> Iterator[None]:
    """Within the block one graph must be compiled, and none broken."""
    before, broken = compiled_graphs(), _breaks()
    yield
    assert compiled_graphs() - before == 1
    assert _breaks() == broken


def _breaks() -> int:
    return sum(torch._dynamo.utils.counters["graph_break"].values())
