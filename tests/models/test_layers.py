"""Layers that have a second form. Run: pytest tests/models/test_layers.py"""

from __future__ import annotations

import pytest
import torch

from models.layers import gelu


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
