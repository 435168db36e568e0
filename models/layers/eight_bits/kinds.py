"""Turn the linear layers of blocks to products in 8 bits of a kind, where the device can."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from typing import Literal

import torch
from torch import nn

from core.errors import UserError
from core.metrics.hardware import device_name
from models.layers.eight_bits.fp8 import MULTIPLE, Fp8Linear
from models.layers.transformer import Linear, Modulation

EightBits = Literal["fp8", "mxfp8"]
CAPABILITIES: dict[EightBits, tuple[int, int]] = {"fp8": (8, 9), "mxfp8": (10, 0)}
"""Compute capability of CUDA devices that can: Ada and Hopper on, and Blackwell."""


def use_eight_bits(kind: EightBits, blocks: Iterable[nn.Module], device: torch.device) -> None:
    """Turn the linear layers of `blocks` to 8 bits in place, but those of adaLN, which see one row a sample.

    Parameters keep their names. UserError where the device, an installation or a layer's size does not allow
    it.
    """
    if reason := unsupported(kind, device):
        raise UserError("matmul", kind, f"bf16, since {reason}")
    if kind == "fp8":
        _turn(kind, blocks, Fp8Linear, MULTIPLE)
        return
    from models.layers.eight_bits.mxfp8 import BLOCK, MxFp8Linear

    _turn(kind, blocks, MxFp8Linear, BLOCK)


def unsupported(kind: EightBits, device: torch.device) -> str:
    """Return why this device cannot multiply in 8 bits of a kind, or ''."""
    major, minor = CAPABILITIES[kind]
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < (major, minor):
        needed = f"a CUDA device of compute capability {major}.{minor} or later"
        return f"{kind} needs {needed}, and this is {device_name(device)}"
    if kind == "mxfp8" and importlib.util.find_spec("torchao") is None:
        return "torchao is not installed (the extra `mxfp8`)"
    return ""


def _turn(kind: EightBits, blocks: Iterable[nn.Module], made: type[nn.Linear], multiple: int) -> None:
    for block in blocks:
        skipped = {m.linear for m in block.modules() if isinstance(m, Modulation)}
        for name, module in block.named_modules():
            if type(module) in (nn.Linear, Linear) and module not in skipped:
                if module.in_features % multiple or module.out_features % multiple:
                    sizes = f"{module.in_features} to {module.out_features}"
                    reason = f"{name} maps {sizes}, which {multiple} does not divide"
                    raise UserError("matmul", kind, f"bf16, since {reason}")
                module.__class__ = made
