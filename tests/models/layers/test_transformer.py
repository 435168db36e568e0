"""Layers that have a second form. Run: pytest tests/models/layers/test_transformer.py"""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from functorch.compile import make_boxed_func
from torch._dynamo.backends.common import aot_autograd

from models.layers.transformer import Linear, gelu


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_compiled_gelu_is_the_tanh_form(dtype: torch.dtype) -> None:
    x = torch.linspace(-9, 9, 2001, dtype=dtype).requires_grad_()
    truth = x.detach().double().requires_grad_()
    expected = torch.nn.functional.gelu(truth, approximate="tanh")
    expected = [expected, *torch.autograd.grad(expected.sum(), truth)]
    relative, absolute = 1e-4 if dtype == torch.float32 else 2e-2, 4e-6  # 1 + tanh cancels far to the left
    for run in (gelu, torch.compile(gelu, backend="aot_eager")):
        out = run(x)
        for got, want in zip([out, *torch.autograd.grad(out.sum(), x)], expected, strict=True):
            torch.testing.assert_close(got.double(), want, rtol=relative, atol=absolute)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_compiled_linear_layer_is_the_plain_one_without_a_copy_of_its_bias(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    layer, x = Linear(8, 12).to(dtype), torch.randn(2, 5, 8, dtype=dtype, requires_grad=True)
    wide = copy.deepcopy(layer).double()
    inputs, truth = (x, *layer.parameters()), (x.detach().double().requires_grad_(), *wide.parameters())
    weight = torch.randn(2, 5, 12)
    expected = wide(truth[0])
    expected = [expected, *torch.autograd.grad((expected * weight).sum(), truth)]
    products: list[str] = []

    def look(graph: torch.fx.GraphModule, example: Any) -> Any:
        names = [getattr(node.target, "__name__", "").partition(".")[0] for node in graph.graph.nodes]
        products.extend(name for name in names if name in ("mm", "addmm"))
        return make_boxed_func(graph.forward)

    out = torch.compile(layer, backend=aot_autograd(fw_compiler=look))(x)
    found = [out, *torch.autograd.grad((out * weight).sum(), inputs)]
    assert products == ["mm"] * 3
    for got, want in zip(found, expected, strict=True):
        assert (got.double() - want).norm() <= (1e-6 if dtype == torch.float32 else 1e-2) * want.norm()
