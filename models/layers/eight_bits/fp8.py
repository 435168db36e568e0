"""Linear layers that multiply in 8 bits, on GPUs that can: twice the rate of bfloat16 on Hopper and later.

Every operand is scaled as a whole, by what it holds now, to fill the range of its 8-bit type: e4m3 for
activations and weights, e5m2 for gradients, which need range more than precision (arXiv:2209.05433). Scales
are powers of two, so scaling itself rounds nothing. Sums are in float32, but that of the forward product in
what Hopper's tensor cores keep; weights, biases and all that is between the products stay as they are.

Weights are rounded in each micro-step, and again in its backward pass by the scale that was found: torchao's
dynamic recipe does so too (`Float8Linear` of 0.18). It moves 8 bytes for a weight, beside 6 operations of it
for a token. On an H200 (4.3 TB/s; 1.2 PFLOP/s reached of 2) that is 2 % of the products of 16,384 tokens.
Copies kept for a step would save what of it further micro-steps take, for a byte a parameter that ZeRO-3 and
FSDP2 are there to save, and could outlive a change of weights.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2
MULTIPLE = 16  # of both sides of a matrix, which the hardware asks for


class Fp8Linear(nn.Linear):
    """A linear layer whose three products, one forward and two backward, are in 8 bits."""

    def forward(self, input: Tensor) -> Tensor:
        return _Linear.apply(input, self.weight, self.bias)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        rows = quantise(_padded(x.reshape(-1, x.shape[-1])), E4M3)
        weights = quantise(weight, E4M3)
        # The weights are kept, not their 8-bit copies: ZeRO-3 frees the former and gathers them again.
        ctx.save_for_backward(*rows, weight, weights[1])
        ctx.shape, ctx.has_bias = x.shape, bias is not None
        out = product(rows, _turned(weights), x.dtype, bias=bias, fast=True)[: x.numel() // x.shape[-1]]
        return out.reshape(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        # Read once: activation checkpointing recomputes them.
        numbers, scale, weight, weight_scale = ctx.saved_tensors
        plain = gradients[0].reshape(-1, gradients[0].shape[-1])
        gradient = quantise(_padded(plain), E5M2)
        weights = _in_8_bits(weight, E4M3, weight_scale), weight_scale
        grad_x = product(gradient, weights, plain.dtype)[: len(plain)].reshape(ctx.shape)
        grad_weight = product(_turned(gradient), (numbers, scale), plain.dtype)
        return grad_x, grad_weight, plain.sum(0) if ctx.has_bias else None


Scaled = tuple[Tensor, Tensor]
"""8-bit numbers, and the float32 scalar that each is to be multiplied by."""


def quantise(x: Tensor, dtype: torch.dtype) -> Scaled:
    """Return `x` in 8 bits. One non-finite number makes its whole tensor so: a bad step must be seen."""
    scale = scale_of(x, dtype)
    return _in_8_bits(x, dtype, scale), scale


def scale_of(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the power of two by which `x` fills the range of an 8-bit type: a pass over all of it."""
    largest = x.abs().amax().float().clamp(min=2.0**-100)
    return torch.exp2(torch.ceil(torch.log2(largest / torch.finfo(dtype).max)))


def _in_8_bits(x: Tensor, dtype: torch.dtype, scale: Tensor) -> Tensor:
    limit = torch.finfo(dtype).max
    return (x.float() / scale).clamp(-limit, limit).to(dtype)


def product(
    left: Scaled, right: Scaled, dtype: torch.dtype, *, bias: Tensor | None = None, fast: bool = False
) -> Tensor:
    """Multiply left (M, K) by right (K, N), summed in float32, and add the bias (N,) before rounding.

    fast: whether Hopper may keep its sums in the 14 bits of its tensor cores, for activations, not gradients.
    """
    if left[0].device.type != "cuda":
        return plain_product(left, right, dtype, bias)
    within = bias if bias is not None and bias.dtype == dtype == torch.bfloat16 else None  # as cuBLAS asks
    columns = right[0].t().contiguous().t()  # the layout that the hardware takes of a right side
    out = torch._scaled_mm(
        left[0].contiguous(),
        columns,
        scale_a=left[1],
        scale_b=right[1],
        bias=within,
        out_dtype=dtype,
        use_fast_accum=fast,
    )
    return out if bias is None or within is not None else out + bias


def plain_product(left: Scaled, right: Scaled, dtype: torch.dtype, bias: Tensor | None = None) -> Tensor:
    """Multiply the 8-bit numbers as float32 (the plain twin)."""
    out = (left[0].float() * left[1]) @ (right[0].float() * right[1])
    return (out if bias is None else out + bias.float()).to(dtype)


def _turned(matrix: Scaled) -> Scaled:
    return matrix[0].t(), matrix[1]


def _padded(rows: Tensor) -> Tensor:
    """Append rows of zeros, to a multiple of MULTIPLE."""
    missing = -len(rows) % MULTIPLE
    return nn.functional.pad(rows, (0, 0, 0, missing)) if missing else rows
