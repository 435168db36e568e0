"""Hops of a ring join to plain attention. Run: pytest tests/models/attention/test_ring_kernels.py"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from models.attention.backends import function
from models.attention.by_ring import RING_BACKENDS, ring_alone, ring_backend
from models.attention.dispatch import Backend, attention, unavailable
from models.attention.ring_kernels import KERNELS

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


class Widths(TorchDispatchMode):
    """Notes the widths of heads that attention kernels are called with, and the scales."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[tuple[int, float]] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if "_scaled_dot_product" in str(func):
            heads = [x for x in args if isinstance(x, Tensor) and x.ndim == 4 and x.shape[-1] > 1]
            self.seen |= {(x.shape[-1], (kwargs or {})["scale"]) for x in heads}
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("width", [4, 70, 72])
def test_heads_of_any_width_come_to_kernels_of_a_gpu_in_multiples_of_8(name: Backend, width: int) -> None:
    """Direct calls pass by what torch does for its own; here over shapes alone."""
    q, k = (torch.empty(2, 4, n, width, device="meta", dtype=torch.bfloat16) for n in (64, 33))
    kernel, plain = KERNELS[name], [torch.empty_like(x).requires_grad_() for x in (q, k, k)]
    with Widths() as widths:
        out, log_total = kernel.forward(q, k, k)
        grads = kernel.backward(torch.empty_like(out), q, k, k, out, log_total)
        found = torch.autograd.grad(function(name)(*_by_tokens(plain), None).sum(), plain)
    assert widths.seen == {(width + -width % 8, width**-0.5)}
    assert (out.shape, log_total.shape) == (q.shape, q.shape[:-1])
    assert [x.shape for x in grads] == [x.shape for x in found] == [q.shape, k.shape, k.shape]


def _by_tokens(heads: list[Tensor]) -> list[Tensor]:
    return [x.transpose(1, 2) for x in heads]


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
