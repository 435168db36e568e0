"""Run the kernels in Triton's interpreter, on the CPU, and print how far they are from their plain twins.

A process of its own: Triton reads the variable when kernels are decorated.
"""

from __future__ import annotations

import os

os.environ["TRITON_INTERPRET"] = "1"

import json
from typing import Any

import torch
from torch import Tensor

from core import draws
from core.draws import Draws
from core.kernels.draw_kernels import TritonDraws
from core.kernels.mixing_kernel import TritonMixer
from models.kernels import adaln
from models.layers import transformer
from tests.tools.train.mixing_cases import CASES, apart, noisy

SHAPES = ((2, 5, 24), (1, 19, 40))  # tokens that fill no run of rows, widths that fill no block


def given(shape: tuple[int, int, int], dtype: torch.dtype, per_token: bool) -> list[Tensor]:
    """Return x, y and parts of one product, as a block has them: gate, shift, scale."""
    samples, tokens, width = shape
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(shape, generator=generator).to(dtype) for _ in range(2))
    product = torch.randn(samples, tokens if per_token else 1, 6 * width, generator=generator).to(dtype)
    return [x, y, *product.chunk(6, -1)[1:4]]


def run(
    functions: Any,
    tensors: list[Tensor],
    dtype: torch.dtype,
    *,
    is_gated: bool,
    used: tuple[int, ...] = (0, 1),
) -> list[Tensor]:
    """Return outputs, and gradients of all inputs that count.

    dtype: in which what comes back is rounded.  used: numbers of the outputs that the loss depends on.
    """
    x, y, gate, shift, scale = (tensor.detach().requires_grad_() for tensor in tensors)
    if is_gated:
        outputs = functions.gated_norm_modulate(x, gate, y, shift, scale)
        inputs = [x, gate, y, shift, scale]
    else:
        outputs, inputs = (functions.norm_modulate(x, shift, scale),), [x, shift, scale]
    rise = torch.linspace(-1, 1, x.numel()).to(dtype).to(x.dtype).view_as(x)
    slopes = [rise * (number + 1) for number in range(len(outputs))]
    pairs = [*zip(outputs, slopes, strict=True)]
    loss = sum((output * slope).sum() for output, slope in (pairs[n] for n in used if n < len(pairs)))
    grads = torch.autograd.grad(loss, inputs, allow_unused=True, materialize_grads=True)
    return [*outputs, *grads]


def _apart(found: Tensor, exact: Tensor) -> float:
    """Return the largest error, of the largest value."""
    found, exact = found.detach().double(), exact.detach().double()
    return float((found - exact).abs().max() / exact.abs().max().clamp(min=1e-30))


def adaln_errors(dtype: torch.dtype) -> dict[str, list[float]]:
    """Return for each case the errors of its results, against float64 on the same inputs.

    In bfloat16 the sum is rounded before it is normalised, by the twin that is compared with too.
    """
    found = {}
    for shape in SHAPES:
        for per_token in (False, True):
            for is_gated, used in ((False, (0,)), (True, (0, 1)), (True, (0,)), (True, (1,))):
                tensors, known = given(shape, dtype, per_token), {"is_gated": is_gated, "used": used}
                kernels = run(adaln, tensors, dtype, **known)
                plain = run(_Rounding(dtype), [each.double() for each in tensors], dtype, **known)
                pairs = zip(kernels, plain, strict=True)
                found[f"{shape} {per_token} {is_gated} {used}"] = [_apart(*pair) for pair in pairs]
    return found


class _Rounding:
    """The plain functions in float64, but for the sum, which is rounded to `dtype` on its way."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype

    norm_modulate = staticmethod(transformer.norm_modulate)

    def gated_norm_modulate(self, x: Tensor, gate: Tensor, y: Tensor, *more: Tensor) -> tuple[Tensor, Tensor]:
        x = transformer.gated(x, gate, y)
        x = x + (x.detach().to(self.dtype).double() - x.detach())
        return x, transformer.norm_modulate(x, *more)


def draw_errors() -> dict[str, Any]:
    """Return whether integers are equal, and how far normals are apart."""
    ids = torch.tensor([0, 7, 2**40 + 3, 2**62])
    positions = torch.tensor([3, 0, 2**31, 2**32 - 1])
    kernels, found = TritonDraws(), {}
    kernels.device_type = "cpu"
    for name, seed in (("one seed", 2**63 - 1), ("a seed each", (1, 2, 3, 4))):
        for count in (1, 6, 1031):
            both = []
            for on_gpu in (None, kernels):
                draws.on_gpu = on_gpu
                each = Draws(seed, 2**32 - 1, ids, positions)
                both.append((each.bits("noise", count), each.uniform("time"), each.normal("noise", (count,))))
            (bits, times, normals), (bits_2, times_2, normals_2) = both
            same = torch.equal(bits, bits_2) and torch.equal(times, times_2)
            found[f"{name} {count}"] = [same, float((normals - normals_2).abs().max())]
    return found


def mixing_errors(dtype: torch.dtype) -> dict[str, dict[str, float]]:
    """Return for each case how far the tensors of a noisy batch are from the plain ones."""
    device = TritonDraws()
    device.device_type = "cpu"
    found = {}
    for name, case in CASES.items():
        plain = noisy(case, None, None)
        found[name] = apart(noisy(case, device, TritonMixer(dtype)), plain)
    return found


print(
    json.dumps(
        {
            "fp32": adaln_errors(torch.float32),
            "bf16": adaln_errors(torch.bfloat16),
            "draws": draw_errors(),
            "mixing": [mixing_errors(torch.float32), mixing_errors(torch.bfloat16)],
        }
    )
)
