"""Products in 8 bits, emulated where there is no GPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.batch import Condition
from core.distributed import ranks
from core.engine.activation_checkpointing import checkpoint_blocks
from core.engine.compiling import compile_blocks
from core.engine.config import EngineConfig
from core.engine.kinds import make_engine
from core.errors import UserError
from core.optim.groups import OptimizerConfig
from models.layers.eight_bits import fp8, kinds
from models.layers.eight_bits.fp8 import E4M3, E5M2, Fp8Linear, plain_product, product, quantise
from models.layers.eight_bits.kinds import use_eight_bits
from tests.models.layers.eight_bits.small_dit import (
    CPU,
    checkpointed_by,
    inputs,
    loss_and_gradients,
    network,
    one_graph,
    results,
)
from tests.stand_in_gpu import OnGpu, gpu, put


@pytest.mark.parametrize(("dtype", "bits"), [(E4M3, 4), (E5M2, 3)])
def test_scales_fill_the_range_and_round_to_the_bits_of_the_type(dtype: torch.dtype, bits: int) -> None:
    x = torch.randn(4096, generator=torch.Generator().manual_seed(0)) * 1e-3
    numbers, scale = quantise(x, dtype)
    limit = torch.finfo(dtype).max
    assert limit / 2 < numbers.float().abs().max() <= limit
    assert torch.frexp(scale).mantissa == 0.5  # a power of two
    large = x.abs() > x.abs().max() / 64  # smaller numbers are subnormal
    error = (numbers.float() * scale - x).abs() / x.abs()
    assert error[large].max() <= 2.0**-bits
    assert quantise(torch.zeros(3), dtype)[0].float().tolist() == [0, 0, 0]


@pytest.mark.parametrize("rows", [16, 21])
def test_numbers_that_8_bits_hold_give_the_exact_layer(rows: int) -> None:
    """Small integers and power-of-two scales: output and all gradients are those of the plain layer."""
    generator = torch.Generator().manual_seed(1)

    def integers(*shape: int) -> Tensor:
        return torch.randint(-3, 4, shape, generator=generator).float()

    plain = nn.Linear(32, 16)
    with torch.no_grad():
        plain.weight.copy_(integers(16, 32))
        plain.bias.copy_(integers(16))
    x, gradient = integers(3, rows, 32).requires_grad_(), integers(3, rows, 16)
    expected = results(plain, x, gradient)
    plain.__class__ = Fp8Linear
    assert all(map(torch.equal, results(plain, x, gradient), expected))


def test_random_numbers_are_off_by_the_rounding_of_8_bits() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(256, 128)
    x, gradient = torch.randn(64, 256, requires_grad=True), torch.randn(64, 128)
    expected = results(layer, x, gradient)
    layer.__class__ = Fp8Linear
    errors = [
        float(((got - want).norm() / want.norm()).detach())
        for got, want in zip(results(layer, x, gradient), expected, strict=True)
    ]
    assert all(0.01 < error < 0.05 for error in errors[:1])  # e4m3 by e4m3
    assert all(0.02 < error < 0.08 for error in errors[1:3])  # e5m2 by e4m3
    assert errors[3] == 0  # the bias's gradient is a sum


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_stays_so(bad: float) -> None:
    layer = nn.Linear(16, 16)
    layer.__class__ = Fp8Linear
    x = torch.randn(16, 16)
    x[3, 5] = bad
    assert not layer(x)[3].isfinite().any()
    gradient = torch.randn(16, 16)
    gradient[3, 5] = bad
    _, grad_x, grad_weight, _ = results(layer, torch.randn(16, 16, requires_grad=True), gradient)
    assert not grad_x[3].isfinite().any()
    assert not grad_weight.isfinite().all()


@pytest.fixture
def emulated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let devices without 8 bits take the plain twin of the product."""
    monkeypatch.setattr(kinds, "unsupported", lambda kind, device: "")


@pytest.mark.parametrize("mode", ["selective", "every_k", "full"])
@pytest.mark.usefixtures("emulated")
def test_recomputing_changes_no_bit(mode: Any) -> None:
    assert all(map(torch.equal, *(checkpointed_by(which, "fp8") for which in ("none", mode))))


@pytest.mark.parametrize(
    ("backend", "mode"),
    [
        ("aot_eager", "none"),
        *(pytest.param("inductor", mode, marks=pytest.mark.full) for mode in ("none", "selective", "full")),
    ],
)
@pytest.mark.usefixtures("emulated")
def test_a_compiled_block_is_one_graph_and_computes_the_same(backend: str, mode: Any) -> None:
    torch._dynamo.reset()
    model = network()
    use_eight_bits("fp8", model.blocks, CPU)
    checkpoint_blocks(model.blocks, EngineConfig(activation_checkpointing=mode))
    expected = loss_and_gradients(model)
    model.zero_grad()
    compile_blocks(model.blocks, backend)
    with one_graph():
        with one_graph():
            loss_and_gradients(model)
        model.zero_grad()
        found = loss_and_gradients(model)
    for got, want in zip(found, expected, strict=True):
        # Fused, what is between the products stays in fp32 and moves numbers over an edge of 8 bits.
        limit = 0.0 if backend == "aot_eager" else 0.05
        assert (got - want).float().norm() <= limit * want.float().norm()


@pytest.mark.parametrize("mode", ["none", "selective"])
@pytest.mark.usefixtures("emulated")
def test_zero_3_takes_the_steps_of_zero_1(mode: Any) -> None:
    world, results = ranks.start("cpu", 60), []
    for stage in (1, 3):
        model = network().float()
        use_eight_bits("fp8", model.blocks, CPU)
        config = EngineConfig(matmul="fp8", device="cpu", zero_stage=stage, activation_checkpointing=mode)
        checkpoint_blocks(model.blocks, config)
        engine, found = make_engine(model, config, OptimizerConfig(lr=1e-3), world), []
        for _ in range(3):
            loss = engine(*inputs()).float().square().mean()
            engine.backward(loss)
            found += [loss.item(), engine.step(1e-3).grad_norm]
        assert found[4] < found[0]
        results.append(found)
    assert results[1] == pytest.approx(results[0], rel=1e-6)


def test_weights_are_not_kept_in_8_bits_for_the_backward_pass() -> None:
    """ZeRO-3 frees every layer's weights after its forward; such copies would be the whole network."""
    kept: list[Tensor] = []
    layer, x = Fp8Linear(32, 48), torch.randn(64, 32, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda t: t):
        layer(x)
    assert [(tensor.dtype, tensor.numel()) for tensor in kept if tensor is not layer.weight] == [
        (E4M3, x.numel()),
        (torch.float32, 1),
        (torch.float32, 1),
    ]


def test_a_pass_over_the_weights_finds_their_scale_for_both_products(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []

    def scale_of(x: Tensor, dtype: torch.dtype, plain: Any = fp8.scale_of) -> Tensor:
        sizes.append(x.numel())
        return plain(x, dtype)

    monkeypatch.setattr(fp8, "scale_of", scale_of)
    results(Fp8Linear(32, 48), torch.randn(64, 32, requires_grad=True), torch.randn(64, 48))
    assert sizes == [64 * 32, 48 * 32, 64 * 48]  # the input, the weights, the gradient


@pytest.mark.usefixtures("emulated")
def test_blocks_change_but_their_modulation_and_names_do_not() -> None:
    model = network()
    names = [name for name, _ in model.named_parameters()]
    x, time, _ = inputs()
    plain = model(x, time, Condition())
    use_eight_bits("fp8", model.blocks, CPU)
    kinds = {name for name, module in model.named_modules() if isinstance(module, Fp8Linear)}
    layers = ("attention.qkv", "attention.out", "mlp.up", "mlp.down")
    assert kinds == {f"blocks.{block}.{layer}" for block in range(2) for layer in layers}
    assert [name for name, _ in model.named_parameters()] == names
    out = model(x, time, Condition())
    assert 0 < (out - plain).norm() / plain.norm() < 0.1
    out.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_a_device_or_a_layer_that_cannot_is_refused_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"^matmul=fp8: .*compute capability 8\.9.*this is cpu"):
        use_eight_bits("fp8", [nn.Linear(16, 16)], CPU)
    monkeypatch.setattr(kinds, "unsupported", lambda kind, device: "")
    with pytest.raises(UserError, match="maps 24 to 16, which 16 does not divide"):
        use_eight_bits("fp8", [nn.Sequential(nn.Linear(24, 16))], CPU)
    with pytest.raises(UserError, match="matmul=fp8: expected bf16 with precision=fp32"):
        EngineConfig(matmul="fp8", precision="fp32")


def test_products_are_given_to_the_hardware_in_the_layout_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """cuBLAS takes a left side by rows, a right side by columns, sizes that 16 divides, at most one e5m2."""
    seen = []

    def scaled_mm(
        left: Tensor,
        right: Tensor,
        *,
        scale_a: Tensor,
        scale_b: Tensor,
        bias: Tensor | None,
        out_dtype: torch.dtype,
        use_fast_accum: bool,
    ) -> Tensor:
        assert left.stride(1) == right.stride(0) == 1
        assert not any(size % 16 for size in (*left.shape, *right.shape))
        assert (scale_a.numel(), scale_b.numel(), scale_a.dtype, scale_b.dtype) == (
            1,
            1,
            *[torch.float32] * 2,
        )
        seen.append((left.dtype, right.dtype, bias is not None, use_fast_accum))
        return plain_product((left, scale_a), (right, scale_b), out_dtype, bias)

    monkeypatch.setattr(torch, "_scaled_mm", scaled_mm)
    torch.manual_seed(0)
    layer, x = nn.Linear(64, 32).to(torch.bfloat16), torch.randn(3, 7, 64, dtype=torch.bfloat16)
    layer.__class__ = Fp8Linear
    weights = torch.randn(3, 7, 32, dtype=torch.bfloat16)
    plain = results(layer, x.clone().requires_grad_(), weights)
    assert not seen
    with gpu() as waits:
        moved = OnGpu(x).requires_grad_()
        found = results(put(layer), moved, OnGpu(weights))
        assert waits == []
    assert seen == [(E4M3, E4M3, True, True), *[(E5M2, E4M3, False, False)] * 2]
    for ours, theirs in zip(found, plain, strict=True):
        assert isinstance(ours, OnGpu)
        assert torch.equal(ours.inner, theirs.detach())


@pytest.mark.cuda
def test_the_hardware_agrees_with_the_plain_twin() -> None:
    if reason := kinds.unsupported("fp8", torch.device("cuda")):
        pytest.skip(reason)
    torch.manual_seed(0)
    left = quantise(torch.randn(64, 128, device="cuda"), E5M2)
    right = quantise(torch.randn(128, 32, device="cuda"), E4M3)
    found, expected = product(left, right, torch.bfloat16), plain_product(left, right, torch.float32)
    assert (found.float() - expected).norm() / expected.norm() < 5e-3
    layer = nn.Linear(64, 32).to("cuda", torch.bfloat16)
    x = torch.randn(3, 7, 64, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    expected = F.linear(x, layer.weight, layer.bias)
    layer.__class__ = Fp8Linear
    out, *gradients = results(layer, x, torch.randn_like(expected))
    assert (out - expected).norm() / expected.norm() < 0.08
    assert all(gradient.isfinite().all() for gradient in gradients)
