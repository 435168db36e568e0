"""MXFP8 by torchao, emulated where there is no Blackwell: its numbers, and what is refused."""

from __future__ import annotations

import importlib.util
import os
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.engine.compiling import compile_blocks
from core.engine.config import EngineConfig
from core.errors import UserError
from models.layers.eight_bits import kinds
from models.layers.eight_bits.kinds import use_eight_bits
from tests.fresh_python import imported_by
from tests.models.layers.eight_bits.small_dit import (
    CPU,
    checkpointed_by,
    inputs,
    loss_and_gradients,
    network,
    one_graph,
    results,
)

CUDA = torch.device("cuda")
BLOCK = 32


def rounded(x: Tensor) -> Tensor:
    """Return the numbers that MXFP8 has for `x`, (rows, a multiple of 32), rounded along the last dimension.

    The scale of 32 numbers is the least power of two by which the largest of them fits e4m3.
    """
    blocks = x.float().unflatten(-1, (-1, BLOCK))
    largest = blocks.abs().amax(-1, keepdim=True).clamp(min=2.0**-120)
    scale = torch.exp2(torch.ceil(torch.log2(largest / torch.finfo(torch.float8_e4m3fn).max)))
    return ((blocks / scale).to(torch.float8_e4m3fn).float() * scale).flatten(-2).to(x.dtype)


@pytest.fixture
def layers(monkeypatch: pytest.MonkeyPatch) -> type[nn.Linear]:
    """Return the layer, emulated; skip where torchao is not installed."""
    if importlib.util.find_spec("torchao") is None:
        missing = "torchao, the extra `mxfp8`, is not installed"
        assert os.environ.get("LONGTAKE_KERNELS") != "required", missing
        pytest.skip("needs torchao, the extra mxfp8")
    from torchao.quantization.quantize_.common.kernel_preference import KernelPreference

    from models.layers.eight_bits.mxfp8 import MxFp8Linear

    monkeypatch.setattr(MxFp8Linear, "kernel_preference", KernelPreference.EMULATED)
    monkeypatch.setattr(kinds, "unsupported", lambda kind, device: "")
    return MxFp8Linear


@pytest.mark.parametrize("rows", [32, 21])
def test_output_and_gradients_are_products_of_the_rounded_numbers(layers: type[nn.Linear], rows: int) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(64, 96).bfloat16()
    x = torch.randn(3, rows, 64, dtype=torch.bfloat16, requires_grad=True)
    gradient = torch.randn(3, rows, 96, dtype=torch.bfloat16)
    plain = results(layer, x, gradient)
    layer.__class__ = layers
    out, grad_x, grad_weight, grad_bias = results(layer, x, gradient)
    flat_x, flat_g = x.detach().flatten(0, 1), gradient.flatten(0, 1)
    more = -len(flat_x) % BLOCK
    turned_x, turned_g = (F.pad(each, (0, 0, 0, more)).t().contiguous() for each in (flat_x, flat_g))
    weight = layer.weight.detach()
    expected = [
        rounded(flat_x) @ rounded(weight).t() + layer.bias.detach(),
        rounded(flat_g) @ rounded(weight.t().contiguous()).t(),
        rounded(turned_g) @ rounded(turned_x).t(),
    ]
    found = [out.flatten(0, 1), grad_x.flatten(0, 1), grad_weight]
    for ours, right, true in zip(found, expected, plain, strict=False):
        assert torch.equal(ours, right)
        error = (ours - true.reshape(ours.shape)).float().norm() / true.float().norm()
        assert 0.01 < error < 0.06
    torch.testing.assert_close(grad_bias, plain[3], rtol=0, atol=0)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_stays_so(layers: type[nn.Linear], bad: float) -> None:
    layer = nn.Linear(32, 32).bfloat16()
    layer.__class__ = layers
    x = torch.randn(32, 32, dtype=torch.bfloat16)
    x[3, 5] = bad
    assert not layer(x)[3].isfinite().all()
    gradient = torch.randn(32, 32, dtype=torch.bfloat16)
    gradient[3, 5] = bad
    _, grad_x, grad_weight, _ = results(layer, torch.randn_like(gradient).requires_grad_(), gradient)
    assert not grad_x[3].isfinite().all()
    assert not grad_weight.isfinite().all()


def test_blocks_change_but_their_modulation_and_names_do_not(layers: type[nn.Linear]) -> None:
    model = network()
    names = [name for name, _ in model.named_parameters()]
    plain = model(*inputs())
    use_eight_bits("mxfp8", model.blocks, CPU)
    changed = {name for name, module in model.named_modules() if isinstance(module, layers)}
    wanted = ("attention.qkv", "attention.out", "mlp.up", "mlp.down")
    assert changed == {f"blocks.{block}.{layer}" for block in range(2) for layer in wanted}
    assert [name for name, _ in model.named_parameters()] == names
    out = model(*inputs())
    assert 0 < (out - plain).norm() / plain.norm() < 0.1


@pytest.mark.parametrize("mode", ["selective", "every_k", "full"])
def test_recomputing_changes_no_bit(layers: type[nn.Linear], mode: Any) -> None:
    assert all(map(torch.equal, *(checkpointed_by(which, "mxfp8") for which in ("none", mode))))


def test_a_compiled_block_is_one_graph_and_computes_the_same(layers: type[nn.Linear]) -> None:
    torch._dynamo.reset()
    model = network()
    use_eight_bits("mxfp8", model.blocks, CPU)
    expected = loss_and_gradients(model)
    model.zero_grad()
    compile_blocks(model.blocks, "aot_eager")
    with one_graph():
        found = loss_and_gradients(model)
    assert all(map(torch.equal, found, expected))


def test_a_device_or_a_layer_that_cannot_is_refused_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"^matmul=mxfp8: .*compute capability 10\.0.*this is cpu"):
        use_eight_bits("mxfp8", [nn.Linear(32, 32)], CPU)
    monkeypatch.setattr(kinds, "device_name", lambda device: "NVIDIA H200")
    for capability, said in (((9, 0), "this is NVIDIA H200"), ((10, 0), "the extra `mxfp8`")):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, found=capability: found)
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        with pytest.raises(UserError, match=said):
            use_eight_bits("mxfp8", [nn.Linear(32, 32)], CUDA)
    with pytest.raises(UserError, match="matmul=mxfp8: expected bf16 with precision=fp32"):
        EngineConfig(matmul="mxfp8", precision="fp32")


def test_a_width_that_blocks_do_not_divide_is_refused(layers: type[nn.Linear]) -> None:
    with pytest.raises(UserError, match=r"matmul=mxfp8: .* maps 48 to 32, which 32 does not divide"):
        use_eight_bits("mxfp8", [nn.Sequential(nn.Linear(48, 32))], CPU)


def test_nothing_else_imports_torchao() -> None:
    modules, _ = imported_by("import launch.cli, tools.train.claimed_run")
    assert "torchao" not in modules


@pytest.mark.cuda
def test_the_hardware_agrees_with_the_emulation() -> None:
    if reason := kinds.unsupported("mxfp8", CUDA):
        pytest.skip(reason)
    from torchao.quantization.quantize_.common.kernel_preference import KernelPreference

    from models.layers.eight_bits.mxfp8 import MxFp8Linear

    torch.manual_seed(0)
    layer = nn.Linear(256, 512).to(CUDA, torch.bfloat16)
    layer.__class__ = MxFp8Linear
    x = torch.randn(3, 77, 256, device=CUDA, dtype=torch.bfloat16, requires_grad=True)
    gradient = torch.randn(3, 77, 512, device=CUDA, dtype=torch.bfloat16)
    found = results(layer, x, gradient)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MxFp8Linear, "kernel_preference", KernelPreference.EMULATED)
        expected = results(layer, x, gradient)
    for ours, right in zip(found, expected, strict=True):
        assert (ours - right).float().norm() / right.float().norm() < 1e-2
