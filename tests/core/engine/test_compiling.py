"""Compilation before the first step, and none later. Run: pytest tests/core/engine/test_compiling.py"""

from __future__ import annotations

import pytest
import torch
from torch import nn

from core.engine.compiling import compile_blocks, compiled_graphs, warm_up
from core.engine.config import EngineConfig
from core.errors import UserError


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.gelu(self.linear(x))


class Stack(nn.Module):
    """A network of three equal blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = (
            x + next(self.parameters()).sum()
        )  # so that the first block's input has a gradient, like the others'
        for block in self.blocks:
            x = block(x)
        return x


def test_every_shape_is_compiled_once_and_a_forgotten_one_is_counted() -> None:
    torch._dynamo.reset()
    torch.manual_seed(0)
    stack, shapes = Stack(), [(2, 4), (3, 4), (5, 2, 4)]
    plain = [stack(torch.ones(shape)) for shape in shapes]
    compile_blocks(stack.blocks, "aot_eager")
    start = compiled_graphs()
    before = warm_up(stack, [(torch.ones(shape),) for shape in shapes])
    assert before - start == len(shapes)  # not times the three blocks
    assert all(p.grad is None for p in stack.parameters())
    for shape, expected in zip(shapes, plain, strict=True):
        out = stack(torch.ones(shape))
        torch.testing.assert_close(out, expected, rtol=1e-6, atol=1e-6)
        out.sum().backward()
    assert compiled_graphs() == before
    stack(torch.ones(7, 4))
    assert compiled_graphs() == before + 1


def test_what_is_validated_is_compiled_before_too() -> None:
    torch._dynamo.reset()
    stack = Stack()
    compile_blocks(stack.blocks, "aot_eager")
    example = (torch.ones(2, 4),)
    before = warm_up(stack, [example], [example, (torch.ones(5, 4),)])
    assert stack.training
    stack(*example).sum().backward()
    stack.eval()
    with torch.no_grad():
        stack(*example)
        stack(torch.ones(5, 4))
    assert compiled_graphs() == before


def test_more_shapes_than_torch_would_compile() -> None:
    torch._dynamo.reset()
    stack, count = Stack(), 3
    with torch._dynamo.config.patch(recompile_limit=1):  # pytest's monkeypatch leaves the setting hidden
        compile_blocks(stack.blocks, "eager")
        start = compiled_graphs()
        assert warm_up(stack, [(torch.ones(n + 2, 4),) for n in range(count)]) - start == count


def test_blocks_under_zero_3_are_refused() -> None:
    with pytest.raises(UserError, match="compile=True: expected false with zero_stage=3"):
        EngineConfig(compile=True, zero_stage=3)
