"""The draws of a GPU in two kernels of Triton, in place of hundreds of operations on small tensors.

`core/draws.py` is the plain twin, and says what is drawn. Integers are equal bit by bit, since Triton's
generator is the same Philox-4x32-10; normals agree to the rounding of log, sin and cos. Imports Triton.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

OPTIONS: dict[str, Any] = {"enable_fp_fusion": False, "num_warps": 4}
BLOCK = 256

_FIRST_CELL: tl.constexpr = tl.constexpr(2.0**-32)
_TURN: tl.constexpr = tl.constexpr(2 * math.pi * 2.0**-32)


@triton.jit(do_not_specialize=["step_index"])  # it is another one in every step, and 1 in the second
def start_kernel(keys, ids, positions, streams, samples, seeds, step_index, BLOCK: tl.constexpr):
    """Mix (id, step, position) under the key of each purpose: keys, counters and first block of streams."""
    purpose = tl.program_id(0).to(tl.int64)
    sample = tl.program_id(1).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    valid = sample < samples
    number = tl.load(ids + sample, mask=valid, other=0)
    place = tl.load(positions + sample, mask=valid, other=0)
    key = tl.load(keys + purpose * seeds + tl.where(seeds == 1, 0, sample), mask=valid, other=0)
    zero = (number & 0).to(tl.uint32)
    k0, k1, c2, c3 = tl.philox_impl(
        (number & 0xFFFFFFFF).to(tl.uint32),
        ((number >> 32) & 0xFFFFFFFF).to(tl.uint32),
        zero + step_index.to(tl.uint32),
        (place & 0xFFFFFFFF).to(tl.uint32),
        (key & 0xFFFFFFFF).to(tl.uint32),
        ((key >> 32) & 0xFFFFFFFF).to(tl.uint32),
    )
    w0, w1, w2, w3 = tl.philox_impl(zero, zero, c2, c3, k0, k1)
    base = streams + purpose * 8 * samples + sample
    tl.store(base, k0.to(tl.int64), mask=valid)
    tl.store(base + samples, k1.to(tl.int64), mask=valid)
    tl.store(base + 2 * samples, c2.to(tl.int64), mask=valid)
    tl.store(base + 3 * samples, c3.to(tl.int64), mask=valid)
    tl.store(base + 4 * samples, w0.to(tl.int64), mask=valid)
    tl.store(base + 5 * samples, w1.to(tl.int64), mask=valid)
    tl.store(base + 6 * samples, w2.to(tl.int64), mask=valid)
    tl.store(base + 7 * samples, w3.to(tl.int64), mask=valid)


@triton.jit
def draw_kernel(stream, out, samples, count, NORMAL: tl.constexpr, BLOCK: tl.constexpr):
    """Fill rows of `count` words, or of normals, four of each block of the sample's stream."""
    sample = tl.program_id(0).to(tl.int64)
    first = tl.program_id(1).to(tl.int64) * BLOCK
    place = 4 * first + tl.arange(0, 4 * BLOCK)
    if NORMAL:
        drawn = normals(stream, samples, sample, first, BLOCK)
    else:
        w0, w1, w2, w3 = words(stream, samples, sample, first, BLOCK)
        drawn = in_order(w0.to(tl.int64), w1.to(tl.int64), w2.to(tl.int64), w3.to(tl.int64))
    tl.store(out + sample * count + place, drawn, mask=place < count)


@triton.jit
def words(stream, samples, sample, first, BLOCK: tl.constexpr):
    """Return the four words of BLOCK blocks of a sample's stream, from the block `first` on."""
    block = first + tl.arange(0, BLOCK)
    k0 = tl.load(stream + sample).to(tl.uint32)
    k1 = tl.load(stream + samples + sample).to(tl.uint32)
    c2 = tl.load(stream + 2 * samples + sample).to(tl.uint32)
    c3 = tl.load(stream + 3 * samples + sample).to(tl.uint32)
    low = (block & 0xFFFFFFFF).to(tl.uint32)
    return tl.philox_impl(
        low, (block >> 32).to(tl.uint32), c2 + low * 0, c3 + low * 0, k0 + low * 0, k1 + low * 0
    )


@triton.jit
def normals(stream, samples, sample, first, BLOCK: tl.constexpr):
    """Return the 4 BLOCK normals of these blocks, in order."""
    w0, w1, w2, w3 = words(stream, samples, sample, first, BLOCK)
    near, far = _radius(w0), _radius(w2)
    left, right = w1.to(tl.float32) * _TURN, w3.to(tl.float32) * _TURN
    return in_order(near * tl.cos(left), near * tl.sin(left), far * tl.cos(right), far * tl.sin(right))


@triton.jit
def in_order(a, b, c, d):
    """Return a0, b0, c0, d0, a1, ...: neighbours in memory in one thread, which stores them together."""
    return tl.interleave(tl.interleave(a, c), tl.interleave(b, d))


@triton.jit
def _radius(word):
    return tl.sqrt_rn(-2.0 * tl.log((word.to(tl.float32) + 0.5) * _FIRST_CELL))


class TritonDraws:
    """Draws on a GPU, as `core.philox.OnDevice` asks for them."""

    device_type, prefers_one_go = "cuda", False

    def start(self, keys: Tensor, ids: Tensor, positions: Tensor, step_index: int) -> Tensor:
        """Return (purposes, 8, B) int64: keys, counters and the first block of every stream.

        keys: (purposes, 1 or B) int64, 64 bits each.
        """
        purposes, seeds = keys.shape
        samples = len(ids)
        streams = torch.empty((purposes, 8, samples), dtype=torch.int64, device=ids.device)
        grid = (purposes, triton.cdiv(samples, BLOCK))
        start_kernel[grid](keys, ids, positions, streams, samples, seeds, step_index, BLOCK=BLOCK, **OPTIONS)
        return streams

    def words(self, stream: Tensor, count: int) -> Tensor:
        """Return (B, count) int64 words of a stream (8, B)."""
        return self._draw(stream, count, torch.int64)

    def normal(self, stream: Tensor, count: int) -> Tensor:
        """Return (B, count) float32 normals of a stream (8, B)."""
        return self._draw(stream, count, torch.float32)

    def _draw(self, stream: Tensor, count: int, dtype: torch.dtype) -> Tensor:
        samples = stream.shape[1]
        out = torch.empty((samples, count), dtype=dtype, device=stream.device)
        grid = (samples, triton.cdiv(triton.cdiv(count, 4), BLOCK))
        known = {"NORMAL": dtype == torch.float32, "BLOCK": BLOCK, **OPTIONS}
        draw_kernel[grid](stream, out, samples, count, **known)
        return out
