"""adaLN in one pass over the tokens, forward and backward: gate x y + residual, LayerNorm, modulation.

Written out these are three to four passes over memory each way, and more for the sums over tokens that are
the gradients of gate, shift and scale. Here a program takes a row of D numbers forward, and backward a run of
rows, over which it adds up the three gradients in registers; no order of threads changes a sum. Modulation is
one vector a sample, (B, 1, D), or one a token, (B, N, D). All arithmetic is in float32, and results are
rounded once.

Imports Triton: `kinds.py` does so where kernels are asked for. Fusing of products and sums is off in every
kernel (`enable_fp_fusion`), since its default is another in the next release.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

EPS = 1e-6  # as `layers.transformer.layer_norm` has it
RUN = 16  # rows that one program of the backward pass adds up
OPTIONS: dict[str, Any] = {"enable_fp_fusion": False, "num_warps": 4}


@triton.jit
def forward_kernel(
    x,
    y,
    gate,
    shift,
    scale,
    sums,
    out,
    mean,
    inverse,
    tokens,
    width,
    sample_stride,
    token_stride,
    eps,
    GATED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    valid = columns < width
    place = row * width + columns
    given = (row // tokens) * sample_stride + (row % tokens) * token_stride + columns
    value = tl.load(x + place, mask=valid, other=0.0).to(tl.float32)
    if GATED:
        part = tl.load(y + place, mask=valid, other=0.0).to(tl.float32)
        value += tl.load(gate + given, mask=valid, other=0.0).to(tl.float32) * part
        rounded = value.to(sums.dtype.element_ty)
        tl.store(sums + place, rounded, mask=valid)
        value = rounded.to(tl.float32)
    centre = tl.sum(value, 0) / width
    apart = tl.where(valid, value - centre, 0.0)
    factor = 1.0 / tl.sqrt(tl.sum(apart * apart, 0) / width + eps)
    tl.store(mean + row, centre)
    tl.store(inverse + row, factor)
    wide = 1.0 + tl.load(scale + given, mask=valid, other=0.0).to(tl.float32)
    result = apart * factor * wide + tl.load(shift + given, mask=valid, other=0.0).to(tl.float32)
    tl.store(out + place, result.to(out.dtype.element_ty), mask=valid)


@triton.jit
def backward_kernel(
    sums,
    y,
    gate,
    scale,
    mean,
    inverse,
    of_sums,
    of_out,
    of_x,
    of_y,
    of_gate,
    of_shift,
    of_scale,
    tokens,
    width,
    sample_stride,
    token_stride,
    runs,
    GATED: tl.constexpr,
    PER_TOKEN: tl.constexpr,
    RUN: tl.constexpr,
    BLOCK: tl.constexpr,
):
    sample = tl.program_id(0).to(tl.int64)
    run = tl.program_id(1).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    valid = columns < width
    gate_sum = tl.zeros([BLOCK], tl.float32)
    shift_sum = tl.zeros([BLOCK], tl.float32)
    scale_sum = tl.zeros([BLOCK], tl.float32)
    for number in range(RUN):
        token = run * RUN + number
        here = valid & (columns * 0 + token < tokens)  # of one shape, as the interpreter wants it
        row = sample * tokens + tl.minimum(token, tokens - 1)
        place = row * width + columns
        given = sample * sample_stride + tl.minimum(token, tokens - 1) * token_stride + columns
        value = tl.load(sums + place, mask=here, other=0.0).to(tl.float32)
        factor = tl.load(inverse + row)
        normal = tl.where(here, (value - tl.load(mean + row)) * factor, 0.0)
        slope = tl.load(of_out + place, mask=here, other=0.0).to(tl.float32)
        inner = slope * (1.0 + tl.load(scale + given, mask=here, other=0.0).to(tl.float32))
        level = tl.sum(inner, 0) / width
        lean = tl.sum(inner * normal, 0) / width
        total = factor * (inner - level - normal * lean)
        if GATED:
            total += tl.load(of_sums + place, mask=here, other=0.0).to(tl.float32)
            part = tl.load(y + place, mask=here, other=0.0).to(tl.float32)
            opened = tl.load(gate + given, mask=here, other=0.0).to(tl.float32)
            tl.store(of_y + place, (total * opened).to(of_y.dtype.element_ty), mask=here)
        tl.store(of_x + place, total.to(of_x.dtype.element_ty), mask=here)
        if PER_TOKEN:
            if GATED:
                tl.store(of_gate + place, total * part, mask=here)
            tl.store(of_shift + place, slope, mask=here)
            tl.store(of_scale + place, slope * normal, mask=here)
        else:
            if GATED:
                gate_sum += tl.where(here, total * part, 0.0)
            shift_sum += slope
            scale_sum += slope * normal
    if not PER_TOKEN:
        place = (sample * runs + run) * width + columns
        if GATED:
            tl.store(of_gate + place, gate_sum, mask=valid)
        tl.store(of_shift + place, shift_sum, mask=valid)
        tl.store(of_scale + place, scale_sum, mask=valid)


def norm_modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Normalise x (B, N, D) and modulate it (`layers.transformer.norm_modulate`)."""
    found: Tensor = _AdaLn.apply(x, None, None, shift, scale)[1]
    return found


def gated_norm_modulate(
    x: Tensor, gate: Tensor, y: Tensor, shift: Tensor, scale: Tensor
) -> tuple[Tensor, Tensor]:
    """Return x + gate * y, and that normalised and modulated (`layers.transformer.gated_norm_modulate`)."""
    sums, out = _AdaLn.apply(x, y, gate, shift, scale)
    return sums, out


class _AdaLn(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, y: Tensor | None, gate: Tensor | None, shift: Tensor, scale: Tensor
    ) -> tuple[Tensor, Tensor]:
        samples, tokens, width = x.shape
        x = x.contiguous()
        gated = y is not None
        y = x if y is None else y.contiguous()
        gate, shift, scale = _alike(shift if gate is None else gate, shift, scale)
        sums = torch.empty_like(x) if gated else x
        out = torch.empty_like(x)
        mean, inverse = (x.new_empty(samples * tokens, dtype=torch.float32) for _ in range(2))
        strides = (shift.stride(0), shift.stride(1) if shift.shape[1] > 1 else 0)
        block = triton.next_power_of_2(width)
        known = (mean, inverse, tokens, width, *strides, EPS)
        forward_kernel[(samples * tokens,)](
            x, y, gate, shift, scale, sums, out, *known, GATED=gated, BLOCK=block, **OPTIONS
        )
        ctx.save_for_backward(sums, y, gate, scale, mean, inverse)
        ctx.gated, ctx.strides, ctx.block = gated, strides, block
        ctx.set_materialize_grads(False)  # no pass over memory for zeros that nothing reads
        if not gated:
            sums = sums.detach()
            ctx.mark_non_differentiable(sums)
        return sums, out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        sums, y, gate, scale, mean, inverse = ctx.saved_tensors
        samples, tokens, width = sums.shape
        of_sums, of_out = (None if each is None else each.contiguous() for each in gradients)
        of_out = torch.zeros_like(sums) if of_out is None else of_out
        if of_sums is None:  # which the kernel reads with a gate alone
            of_sums = torch.zeros_like(sums) if ctx.gated else of_out
        of_x = torch.empty_like(sums)
        of_y = torch.empty_like(sums) if ctx.gated else of_x
        per_token = scale.shape[1] > 1
        runs = triton.cdiv(tokens, RUN)
        shape = (samples, tokens if per_token else runs, width)
        parts = [sums.new_empty(shape, dtype=torch.float32) for _ in range(3 if ctx.gated else 2)]
        of_gate = parts[-1]
        backward_kernel[(samples, runs)](
            *(sums, y, gate, scale, mean, inverse, of_sums, of_out, of_x, of_y),
            *(of_gate, parts[0], parts[1], tokens, width, *ctx.strides, runs),
            GATED=ctx.gated,
            PER_TOKEN=per_token,
            RUN=RUN,
            BLOCK=ctx.block,
            **OPTIONS,
        )
        of_shift, of_scale, *rest = (
            (part if per_token else part.sum(1, keepdim=True)).to(scale.dtype) for part in parts
        )
        if not ctx.gated:
            return of_x, None, None, of_shift, of_scale
        return of_x, of_y, rest[0], of_shift, of_scale


def _alike(*given: Tensor) -> list[Tensor]:
    """Return modulation of equal strides, the last of them 1: parts of one product have these already."""
    if len({tensor.stride() for tensor in given}) == 1 and given[0].stride(-1) == 1:
        return list(given)
    return [tensor.contiguous() for tensor in given]
