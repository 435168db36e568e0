"""Compilation before the first step, and none later. Run: pytest tests/core/engine/test_compiling.py"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from core.distributed.ranks import World
from core.engine.compiling import (
    compilations,
    compile_blocks,
    compiled_graphs,
    lacks_compiler,
    warm_up,
)
from core.engine.config import EngineConfig
from core.engine.engine import Engine
from core.engine.kinds import make_engine
from core.engine.restoring import evaluating
from core.optim.groups import OptimizerConfig


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


def compiled_stack(world: World, backend: str = "aot_eager") -> tuple[Stack, Engine]:
    """Return a network under training, whose blocks are to be compiled."""
    torch._dynamo.reset()
    torch.manual_seed(0)
    stack, config = Stack(), EngineConfig(device="cpu", precision="fp32", compile=True)
    engine = make_engine(stack, config, OptimizerConfig(), world)
    compile_blocks(stack.blocks, backend)
    return stack, engine


def test_every_shape_is_compiled_once_and_a_forgotten_one_is_counted(world: World) -> None:
    torch.manual_seed(0)
    twin, shapes = Stack(), [(2, 4), (3, 4), (5, 2, 4)]
    plain = [twin(torch.ones(shape)) for shape in shapes]
    _, engine = compiled_stack(world)
    start = compiled_graphs()
    assert warm_up(engine, [(torch.ones(shape),) for shape in shapes]) - start == len(shapes)  # not times 3
    before = compilations()
    for shape, expected in zip(shapes, plain, strict=True):
        out = engine(torch.ones(shape))
        torch.testing.assert_close(out, expected, rtol=1e-6, atol=1e-6)
        engine.backward(out.sum())
        assert engine.step(0.0).applied
    assert compilations() == before
    out = engine(torch.ones(7, 4))
    assert compilations() == before + 1
    engine.backward(out.sum())
    assert compilations() == before + 2


def test_what_is_validated_is_compiled_before_too(world: World) -> None:
    stack, engine = compiled_stack(world)
    example = (torch.ones(2, 4),)
    warm_up(engine, [example], [example, (torch.ones(5, 4),)])
    before = compilations()
    assert stack.training
    engine.backward(engine(*example).sum())
    assert engine.step(0.0).applied
    with evaluating(engine):
        engine(*example)
        engine(torch.ones(5, 4))
    assert compilations() == before


def test_more_shapes_than_torch_would_compile(world: World) -> None:
    (_, engine), count = compiled_stack(world, "eager"), 3
    with torch._dynamo.config.patch(recompile_limit=1):  # pytest's monkeypatch leaves the setting hidden
        start = compiled_graphs()
        assert warm_up(engine, [(torch.ones(n + 2, 4),) for n in range(count)]) - start == count


def test_what_is_compiled_follows_the_engine() -> None:
    def compiles(**fields: Any) -> str:
        return EngineConfig(**fields).compiles

    assert compiles(compile=False) == ""
    assert [compiles(compile=True, zero_stage=stage) for stage in range(4)] == ["blocks"] * 3 + ["functions"]
    assert compiles(compile=True, kind="fsdp2", zero_stage=3) == "blocks"


def test_what_the_compiler_lacks_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = object()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: found if name == "triton" else None)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr("sysconfig.get_path", lambda kind, scheme: str(tmp_path))
    assert lacks_compiler("cuda") == "no C compiler is here"
    assert lacks_compiler("cpu") == "no C++ compiler is here"
    for name in ("cc", "gcc"):
        assert lacks_compiler("cuda") == "no C compiler is here"  # Triton knows none by the name of cc
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    assert lacks_compiler("cuda") == "Python's headers are not here"
    (tmp_path / "Python.h").touch()
    assert lacks_compiler("cuda") == ""
    monkeypatch.setenv("CC", "ccache gcc")  # which Triton would start under that whole name
    assert lacks_compiler("cuda") == "CC=ccache gcc is no C compiler"
    monkeypatch.setenv("CXX", f"{tmp_path / 'gcc'} -x c++")
    assert lacks_compiler("cpu") == ""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert lacks_compiler("cuda") == "Triton is not installed"
