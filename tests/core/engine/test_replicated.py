"""The optimizer of stage 0 by itself. Run: pytest tests/core/engine/test_replicated.py"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from core.engine.flat_adamw import gradient_norm
from core.engine.zero.replicated import Replicated


def make(dtype: torch.dtype, clipping: float = 0.0) -> tuple[list[nn.Parameter], Replicated]:
    torch.manual_seed(0)
    parameters = [nn.Parameter(torch.randn(size).to(dtype)) for size in (5, 200)]
    groups: list[dict[str, Any]] = [{"params": parameters}]
    return parameters, Replicated(groups, gradient_clipping=clipping, lr=1e-2, fused=True)


def test_the_norm_of_many_numbers_is_exact() -> None:
    torch.manual_seed(0)
    gradients = [torch.randn(3_000_001) * 1e-3, torch.randn(7)]
    exact = math.hypot(*(float(flat.double().norm()) for flat in gradients))
    assert gradient_norm(gradients) == pytest.approx(exact, rel=1e-7)
    gradients[0][-1] = math.nan
    assert not gradient_norm(gradients) < math.inf


def test_a_parameter_without_a_gradient_does_not_keep_that_of_the_last_step() -> None:
    (first, second), optimizer = make(torch.float32)
    first.backward(torch.ones(5))
    second.backward(torch.ones(200))
    optimizer.step()
    second.backward(torch.full((200,), 2.0))
    second.backward(torch.ones(200))
    optimizer.step()
    assert optimizer._global_grad_norm == pytest.approx(3 * math.sqrt(200))
    assert optimizer.state[optimizer.masters[0]]["exp_avg"][:5].tolist() == pytest.approx([0.09] * 5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_parameters_are_views_and_follow_the_masters(dtype: torch.dtype) -> None:
    """In fp32 they are views of the masters themselves, which then need not be copied."""
    parameters, optimizer = make(dtype)
    (flat,) = optimizer.masters
    start = [p.data_ptr() for p in parameters]
    for p in parameters:
        p.backward(torch.ones_like(p))
    optimizer.step()
    assert [p.data_ptr() for p in parameters] == start
    assert (parameters[0].data_ptr() == flat.data_ptr()) == (dtype == torch.float32)
    expected = flat.detach().to(dtype).split([5, 200])
    assert all(torch.equal(p.detach(), part) for p, part in zip(parameters, expected, strict=True))


def test_clipping_equals_torch_s() -> None:
    ours, optimizer = make(torch.float32, clipping=0.5)
    theirs = [nn.Parameter(p.detach().clone()) for p in ours]
    plain = torch.optim.AdamW(theirs, lr=1e-2)
    for step in range(3):
        for p, q in zip(ours, theirs, strict=True):
            gradient = torch.randn(p.shape) * step
            p.backward(gradient)
            q.grad = gradient.clone()
        norm = nn.utils.clip_grad_norm_(theirs, 0.5)
        plain.step()
        optimizer.step()
        assert optimizer._global_grad_norm == pytest.approx(float(norm), rel=1e-6)
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p.detach(), q.detach(), rtol=0, atol=1e-7)
    moment = torch.cat([plain.state[q]["exp_avg"] for q in theirs])
    torch.testing.assert_close(optimizer.state[optimizer.masters[0]]["exp_avg"], moment, rtol=1e-5, atol=1e-9)
