"""Linear layers that multiply in MXFP8 on Blackwell, by torchao: 8 bits, and a scale for each 32 numbers.

All operands are e4m3, gradients too, since each 32 numbers along the sum fill its range by a power of two of
their own (OCP Microscaling Formats 1.0; recipe of 2506.08027). torchao keeps this among its prototypes.

Imports torchao: `kinds.py` does so where it is asked for.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn
from torchao.prototype.moe_training.mxfp8_linear import MXFP8Linear
from torchao.prototype.mx_formats.config import ScaleCalculationMode
from torchao.quantization.quantize_.common.kernel_preference import KernelPreference

BLOCK = 32  # numbers that share a scale


class MxFp8Linear(MXFP8Linear):
    """torchao's layer on any number of rows; a linear layer becomes one by its class alone.

    kernel_preference: AUTO multiplies by the hardware; EMULATED by matrices of the rounded numbers.
    """

    kernel_preference: ClassVar[KernelPreference] = KernelPreference.AUTO
    scale_calculation_mode: ClassVar[ScaleCalculationMode] = ScaleCalculationMode.RCEIL
    wgrad_with_hp: ClassVar[bool] = False

    def forward(self, input: Tensor) -> Tensor:
        rows = input.reshape(-1, input.shape[-1])
        # The gradient of the weights is a sum over rows, whose scales are of 32 each.
        padded = nn.functional.pad(rows, (0, 0, 0, -len(rows) % BLOCK)) if len(rows) % BLOCK else rows
        out: Tensor = super().forward(padded)
        return out[: len(rows)].reshape(*input.shape[:-1], -1)
