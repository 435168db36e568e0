"""Hops of a ring join to plain attention. Run: pytest tests/models/attention/test_ring_kernels.py"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from models.attention.by_ring import RING_BACKENDS, ring_alone, ring_backend
from models.attention.dispatch import Backend, attention, unavailable

HALF_ONLY = ("sdpa_flash", "sdpa_cudnn")  # on CUDA
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)]


def with_gradients(out: Tensor, inputs: list[Tensor], weight: Tensor) -> list[Tensor]:
    return [out.detach(), *torch.autograd.grad(out, inputs, weight.to(out.dtype))]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("head_width", [4, 64, 72])
@pytest.mark.parametrize("tokens", [1, 2, 33, 200])
def test_two_hops_are_plain_attention(tokens: int, head_width: int, dtype: torch.dtype, device: str) -> None:
    generator = torch.Generator().manual_seed(tokens)
    drawn = torch.randn(4, 2, tokens, 3, head_width, generator=generator, dtype=torch.float64)
    query, key, value, weight = drawn.to(device, dtype)
    inputs = [x.requires_grad_() for x in (query.clone(), key.clone(), value.clone())]
    wide = [x.detach().double().requires_grad_() for x in inputs]
    truth = with_gradients(attention(wide[0], wide[1], wide[2], backend="math"), wide, weight)
    limit = 2e-6 if dtype == torch.float32 else 1e-2
    for name in RING_BACKENDS:
        if unavailable(name, device) or (device == "cuda" and dtype == torch.float32 and name in HALF_ONLY):
            continue
        out = ring_alone(inputs[0], inputs[1], inputs[2], backend=name)
        for got, want in zip(with_gradients(out, inputs, weight), truth, strict=True):
            apart = (got.double() - want).norm() / max(
                want.norm(), weight.norm()
            )  # of one key dq and dk are 0
            assert apart <= limit, name


@pytest.mark.parametrize(
    ("kind", "dtype", "chosen"),
    [
        ("cpu", torch.bfloat16, "sdpa_flash"),
        ("cpu", torch.float64, "sdpa_flash"),
        ("cuda", torch.bfloat16, "sdpa_flash"),
        ("cuda", torch.float32, "sdpa_efficient"),
        ("cuda", torch.float64, "math"),
    ],
)
def test_the_kernel_by_rule_is_one_that_takes_such_numbers(
    kind: str, dtype: torch.dtype, chosen: Backend
) -> None:
    class Query:
        device, is_cuda = torch.device(kind), kind == "cuda"

    query = Query()
    query.dtype = dtype  # type: ignore[attr-defined]
    assert ring_backend(query) == chosen  # type: ignore[arg-type]
