"""ZeRO-3's linear layer: one product, and no hold on gathered weights.

Run: pytest tests/core/engine/test_gathered_linear.py
"""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from core.distributed.ranks import World
from core.engine.zero.gathered_linear import GatheredLinear, use_gathered_linear
from models.layers.transformer import Linear
from tests.core.engine import gathered_linear_run
from tests.core.engine.gathered_linear_run import MODES, WIDTH, engine_of, layers
from tests.core.ranks import run_ranks

VIEWS = ("view", "t", "detach", "_unsafe_view", "expand", "transpose", "alias", "unsqueeze")


class Operations(TorchDispatchMode):
    """Notes what is computed within the block; views are free."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func).split(".")[1]
        self.names += [] if name in VIEWS else [name]
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(3,), (5, 3), (2, 5, 3), (2, 2, 5, 3)])
@pytest.mark.parametrize("bias", [True, False])
def test_it_is_torch_s_layer(shape: tuple[int, ...], bias: bool, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    plain = nn.Linear(3, 4, bias=bias, dtype=dtype)
    twin = nn.Sequential(nn.Linear(3, 4, bias=bias, dtype=dtype))
    twin[0].load_state_dict(plain.state_dict())
    use_gathered_linear(twin)
    x = torch.randn(shape, dtype=dtype).transpose(0, -1).contiguous().transpose(0, -1)  # strides of any kind
    results = []
    for layer in (plain, twin):
        leaf = x.detach().requires_grad_()
        out = layer(leaf)
        out.backward(torch.linspace(-1, 1, out.numel(), dtype=dtype).view_as(out))
        results.append([out.detach(), leaf.grad, *(p.grad for p in layer.parameters())])
    limit = 1e-6 if dtype == torch.float32 else 1e-2  # of these strides torch rounds before the bias, too
    for got, want in zip(*reversed(results), strict=True):
        assert (got - want).norm() <= limit * want.norm()


@pytest.mark.parametrize("kind", [nn.Linear, Linear])
def test_a_layer_is_one_kernel_as_torch_s_is(world: World, kind: type[nn.Linear]) -> None:
    """DeepSpeed's is two, with a pass over the output for the bias."""
    from deepspeed.runtime.zero.linear import zero3_linear_wrap

    own = nn.functional.linear
    engine = engine_of(world, kind)
    assert nn.functional.linear is own, "the layer of other networks was replaced"
    assert all(isinstance(layer, GatheredLinear) and isinstance(layer, kind) for layer in layers(engine))
    x = torch.randn(2, 5, WIDTH)
    with Operations() as whole:
        engine(x)
    assert whole.names.count("addmm") == len(layers(engine)) == 6
    assert whole.names.count("add_") == 0
    weight, bias = torch.randn(4, WIDTH), torch.randn(4)
    counted = []
    for linear in (own, zero3_linear_wrap):
        with Operations() as operations:
            linear(x, weight, bias)
        counted.append(operations.names)
    assert counted == [["addmm"], ["mm", "add_"]]


@pytest.mark.multiprocess
def test_weights_are_freed_between_the_passes_and_come_back() -> None:
    """Of six layers none's gathered weight lives; torch's own would hold all but that of the first one.

    Blocks end in a layer, whose weight must still be there when its block has been computed again.
    """
    for printed in run_ranks(2, gathered_linear_run.__file__):
        found = json.loads(printed.splitlines()[-1])
        assert found["alive"] == [0, 5]
        assert found["steps"].keys() == set(MODES)
        for mode, (shared, gathered) in found["steps"].items():
            assert gathered == pytest.approx(shared, rel=1e-6), mode
