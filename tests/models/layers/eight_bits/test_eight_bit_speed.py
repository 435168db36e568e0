"""Whether products in 8 bits are worth it, on a GPU: what decides `engine.matmul`."""

from __future__ import annotations

from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn

from models.attention.measuring import seconds_on_gpu
from models.layers.eight_bits.kinds import EightBits, unsupported, use_eight_bits

pytestmark = pytest.mark.cuda
CUDA = torch.device("cuda")


@pytest.mark.parametrize("width", [1152, 2048])
def test_compiled_layers_in_8_bits_beat_16(width: int, capsys: Any) -> None:
    """Forward and backward through the MLP of a block, 32,768 tokens; written out too, which is refused."""
    torch.manual_seed(0)
    x = torch.randn(32768, width, device=CUDA, dtype=torch.bfloat16, requires_grad=True)
    slope, found = torch.randn_like(x), {}
    for kind in ("bf16", *(k for k in get_args(EightBits) if not unsupported(k, CUDA))):
        layers = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"))
        layers.append(nn.Linear(4 * width, width)).to(CUDA, torch.bfloat16)
        if kind != "bf16":
            use_eight_bits(kind, [layers], CUDA)
        for how, function in (("written", layers), ("compiled", torch.compile(layers, dynamic=False))):
            found[f"{kind} {how}"] = _seconds(function, x, slope, list(layers.parameters()))
    shown = ", ".join(f"{name} {taken * 1e6:.0f} us" for name, taken in found.items())
    with capsys.disabled():
        print(f"\nwidth {width}: {shown}")
    assert found["fp8 compiled"] < found["bf16 compiled"]


def _seconds(function: Any, x: Tensor, slope: Tensor, parameters: list[nn.Parameter]) -> float:
    def call() -> None:
        torch.autograd.grad(function(x), [x, *parameters], slope)

    call()
    return seconds_on_gpu(call)
